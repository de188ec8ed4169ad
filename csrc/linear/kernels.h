// The linear kernels of one instruction set; included by isa/linear.cpp alone.
#pragma once

#include "linear/dense_tile.h"
#include "linear/int8_row_tile.h"
#include "linear/integer_tile.h"
#include "linear/packing.h"

namespace vivace::VIVACE_ISA {

using PrepareRow = void (*)(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile);

// The form of activations that a layout's kernel reads. The int8 forms differ in what follows the scales.
// INT8_SUM_128 is padded to multiples of 128 inputs.
enum class Activations : int {
  FLOAT = 1,
  BFLOAT,
  INT8_SUM,
  INT8_OFFSET_8,
  INT8_OFFSET_16,
  INT8_OFFSET_128,
  INT8_Q6_K,
  INT8_SUM_128,
  TOKEN,
  TOKEN_OUTLIERS
};

inline constexpr int MAX_TILE_ROWS = DENSE_TILE_ROWS > INTEGER_TILE_ROWS ? DENSE_TILE_ROWS : INTEGER_TILE_ROWS;

struct LayoutKernel {
  Activations activations;
  int tile_rows;
  PrepareRow prepare_row;
  TileKernel tiles[MAX_TILE_ROWS];  // by rows - 1
  int piece_bytes = 0;              // what a tile reads between two steps of its fetcher; 0: it has none
};

template <Layout L>
constexpr LayoutKernel integer_kernel(Activations activations) {
  LayoutKernel kernel{activations, INTEGER_TILE_ROWS, prepare_int8_row<L>, {}, CHUNK_PIECE<L>};
  const auto fill = [&]<int R>(const auto& self) {
    kernel.tiles[R - 1] = integer_tile<L, R>;
    if constexpr (R < INTEGER_TILE_ROWS) self.template operator()<R + 1>(self);
  };
  fill.template operator()<1>(fill);
  return kernel;
}

template <Layout L>
constexpr LayoutKernel dense_kernel() {
  constexpr int PIECE = PIECE_PAIRS * (L == Layout::F32 ? 128 : 64);
  LayoutKernel kernel{Activations::FLOAT, DENSE_TILE_ROWS, prepare_float_row, {}, PIECE};
#if defined(__AVX512BF16__)
  if constexpr (L == Layout::BF16) kernel = {Activations::BFLOAT, DENSE_TILE_ROWS, prepare_bfloat_row, {}, PIECE};
#endif
  const auto fill = [&]<int R>(const auto& self) {
#if defined(__AVX512BF16__)
    if constexpr (L == Layout::BF16) kernel.tiles[R - 1] = bfloat_tile<R>;
    else kernel.tiles[R - 1] = dense_tile<L, R>;
#else
    kernel.tiles[R - 1] = dense_tile<L, R>;
#endif
    if constexpr (R < DENSE_TILE_ROWS) self.template operator()<R + 1>(self);
  };
  fill.template operator()<1>(fill);
  return kernel;
}

template <bool OUTLIERS>
constexpr LayoutKernel int8_row_kernel(Activations activations) {
  LayoutKernel kernel{activations, INT8_ROW_TILE_ROWS, prepare_token_row<OUTLIERS>, {}, INT8_ROW_PIECE};
  const auto fill = [&]<int R>(const auto& self) {
    kernel.tiles[R - 1] = int8_row_tile<OUTLIERS, R>;
    if constexpr (R < INT8_ROW_TILE_ROWS) self.template operator()<R + 1>(self);
  };
  fill.template operator()<1>(fill);
  return kernel;
}

// By Layout.
inline constexpr LayoutKernel LAYOUT_KERNELS[NUM_LAYOUTS] = {
    dense_kernel<Layout::F32>(),
    dense_kernel<Layout::F16>(),
    dense_kernel<Layout::BF16>(),
    integer_kernel<Layout::Q8_0>(Activations::INT8_OFFSET_128),
    integer_kernel<Layout::Q4_0>(Activations::INT8_OFFSET_8),
    integer_kernel<Layout::Q4_1>(Activations::INT8_SUM),
    integer_kernel<Layout::Q5_0>(Activations::INT8_OFFSET_16),
    integer_kernel<Layout::Q5_1>(Activations::INT8_SUM),
    integer_kernel<Layout::Q4_K>(Activations::INT8_SUM),
    integer_kernel<Layout::Q5_K>(Activations::INT8_SUM),
    integer_kernel<Layout::Q6_K>(Activations::INT8_Q6_K),
    integer_kernel<Layout::INT4_G32>(Activations::INT8_SUM_128),
    integer_kernel<Layout::INT4_G64>(Activations::INT8_SUM),
    integer_kernel<Layout::INT4_G128>(Activations::INT8_SUM),
    int8_row_kernel<false>(Activations::TOKEN),
    int8_row_kernel<true>(Activations::TOKEN_OUTLIERS),
};

VIVACE_INLINE const LayoutKernel& layout_kernel(Layout layout) { return LAYOUT_KERNELS[static_cast<int>(layout)]; }

// Prepared bytes of one row of activations.
VIVACE_INLINE int64_t prepared_row_bytes(const PackedMatrix& matrix) {
  switch (layout_kernel(matrix.layout).activations) {
    case Activations::FLOAT: return matrix.columns * 4;
    case Activations::BFLOAT: return (matrix.columns + 1) / 2 * 4;
    case Activations::TOKEN: return TokenTile(matrix.columns, 1, false).row_bytes();
    case Activations::TOKEN_OUTLIERS: return TokenTile(matrix.columns, 1, true).row_bytes();
    default: break;
  }
  const BlockGeometry geometry = block_geometry(matrix.layout);
  const int64_t groups = num_superblocks(geometry, matrix.columns) * geometry.superblock_inputs / GROUP_INPUTS;
  return groups * (GROUP_INPUTS + 4 + 4 * (GROUP_INPUTS / geometry.scale_inputs));
}

// What a row has behind all tiles: its list of outliers, or the row in the order of packed columns; if both, the list
// follows.
struct RowAside {
  int64_t ordered_bytes;
  int64_t list_bytes;

  VIVACE_INLINE explicit RowAside(const PackedMatrix& matrix)
      : ordered_bytes(matrix.input_order ? matrix.columns * 4 : 0),
        list_bytes(matrix.layout == Layout::INT8_OUTLIER ? outlier_list_bytes(matrix.columns) : 0) {}

  VIVACE_INLINE int64_t bytes() const { return ordered_bytes + list_bytes; }
};

inline int activation_kind(Layout layout) { return static_cast<int>(layout_kernel(layout).activations); }

inline size_t scratch_bytes(const PackedMatrix& matrix, int64_t num_rows) {
  return static_cast<size_t>(prepared_row_bytes(matrix) + RowAside(matrix).bytes()) * static_cast<size_t>(num_rows);
}

// x in the order of packed columns.
VIVACE_INLINE const float* ordered_row(const PackedMatrix& matrix, const float* x, uint8_t* ordered) {
  if (!matrix.input_order) return x;
  for (int64_t k = 0; k < matrix.columns; ++k) std::memcpy(ordered + k * 4, x + matrix.input_order[k], 4);
  return reinterpret_cast<const float*>(ordered);
}

inline void prepare(const PackedMatrix& matrix, const float* x, int64_t ldx, int64_t num_rows, uint8_t* scratch,
                    int64_t row_begin, int64_t row_end) {
  const LayoutKernel& kernel = layout_kernel(matrix.layout);
  const int64_t row_bytes = prepared_row_bytes(matrix);
  const RowTiles tiles(num_rows, kernel.tile_rows);
  const RowAside beside(matrix);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t tile = tiles.tile_of(row);
    const int64_t first = tiles.begin(tile);
    uint8_t* aside = scratch + num_rows * row_bytes + row * beside.bytes();
    const float* from = ordered_row(matrix, x + row * ldx, aside);
    kernel.prepare_row(from, matrix.columns, tiles.rows(tile), row - first, scratch + first * row_bytes);
    if (beside.list_bytes) {
      list_outliers(from, matrix.columns, tiles.rows(tile), row - first, scratch + first * row_bytes,
                    aside + beside.ordered_bytes);
    }
  }
}

// Codes of less than 8 bits cost a row more operations a byte: their tiles outpace the processor's own fetching at 3
// rows (Q4_0 and Q6_K gain 50% and 30% at 4), the others' at 6 (Q8_0 and bf16 lose 7% at 4 and gain 30% and 10% at 8).
constexpr LinearTuning usual_tuning(Layout layout) {
  const bool is_narrow = !is_dense(layout) && !is_int8_row(layout) && block_geometry(layout).code_bits < 8;
  return {16 << 10, is_narrow ? 3 : 6, 384 << 10, 256 << 10};
}

struct LinearTunings {
  LinearTuning of[NUM_LAYOUTS];

  constexpr LinearTunings() : of() {
    for (int i = 0; i < NUM_LAYOUTS; ++i) of[i] = usual_tuning(static_cast<Layout>(i));
  }
};

inline LinearTunings LINEAR_TUNINGS;

inline LinearTuning& linear_tuning(Layout layout) { return LINEAR_TUNINGS.of[static_cast<int>(layout)]; }

// With more tiles than this a block is in use for so long that its coming late costs nothing.
inline constexpr int64_t MAX_FETCH_TILES = 16;

struct TileRange {
  int64_t begin, end;
};

struct LinearRun {
  const PackedMatrix& matrix;
  const uint8_t* scratch;
  float* y;
  int64_t ldy;
  const float* bias;
  const LayoutKernel& kernel;
  const LinearTuning& tuning;
  RowTiles tiles;
  int64_t bytes_a_block;
  int64_t bytes_a_row;

  // What a tile of one block asks for. A single tile: its own stream, some way ahead. One of several, which read the
  // block again from the caches: its share of the next block.
  VIVACE_INLINE Fetch fetch(int64_t block, int64_t tile, TileRange range) const {
    if (kernel.piece_bytes == 0) return {};
    const uint8_t* weights = matrix.data + block * bytes_a_block;
    if (tiles.count == 1) {
      if (tiles.rows(0) < tuning.min_fetch_rows) return {};
      return {weights + tuning.fetch_distance, 1};
    }
    const int64_t shares = range.end - range.begin;
    if (tiles.count > MAX_FETCH_TILES || range.begin > 0 || block + 1 == output_blocks(matrix.rows)) return {};
    const int64_t pieces = bytes_a_block / kernel.piece_bytes;
    return {weights + bytes_a_block + pieces * tile / shares * kernel.piece_bytes, shares};
  }

  VIVACE_INLINE void panel(int64_t block_begin, int64_t block_end, TileRange range) const {
    for (int64_t block = block_begin; block < block_end; ++block) {
      const int64_t n = block * OUTPUT_BLOCK;
      const int64_t left = matrix.rows - n;
      for (int64_t tile = range.begin; tile < range.end; ++tile) {
        const int64_t m = tiles.begin(tile);
        const TileOutput out{y + m * ldy + n, ldy, bias ? bias + n : nullptr, left < 16 ? left : 16,
                             fetch(block, tile, range)};
        kernel.tiles[tiles.rows(tile) - 1](matrix.data + block * bytes_a_block, matrix.columns,
                                           scratch + m * bytes_a_row, out);
      }
    }
  }
};

inline void run_linear(const PackedMatrix& matrix, const float*, int64_t, const uint8_t* scratch, int64_t num_rows,
                       float* y, int64_t ldy, const float* bias, int64_t block_begin, int64_t block_end) {
  const LayoutKernel& kernel = layout_kernel(matrix.layout);
  const LinearTuning& tuning = linear_tuning(matrix.layout);
  const LinearRun run{matrix,
                      scratch,
                      y,
                      ldy,
                      bias,
                      kernel,
                      tuning,
                      RowTiles(num_rows, kernel.tile_rows),
                      block_bytes(matrix.layout, matrix.columns),
                      prepared_row_bytes(matrix)};
  const auto fitting = [](int64_t panel, int64_t each) { return each < panel ? panel / each : 1; };
  const int64_t blocks_a_panel = fitting(tuning.weight_panel_bytes, run.bytes_a_block);
  const int64_t tiles_a_panel = fitting(tuning.row_panel_bytes, run.bytes_a_row * kernel.tile_rows);
  for (int64_t block = block_begin; block < block_end; block += blocks_a_panel) {
    const int64_t last = block + blocks_a_panel < block_end ? block + blocks_a_panel : block_end;
    for (int64_t tile = 0; tile < run.tiles.count; tile += tiles_a_panel) {
      const int64_t end = tile + tiles_a_panel < run.tiles.count ? tile + tiles_a_panel : run.tiles.count;
      run.panel(block, last, {tile, end});
    }
  }
}

inline void embedding_row(const PackedMatrix& matrix, int64_t row, float scale, float* out) {
  unpack_row(matrix, row, scale, out);
}

extern const LinearKernels LINEAR_KERNELS;
const LinearKernels LINEAR_KERNELS = {
    .activation_kind = activation_kind,
    .scratch_bytes = scratch_bytes,
    .prepare = prepare,
    .run = run_linear,
    .embedding_row = embedding_row,
    .tuning = linear_tuning,
};

}  // namespace vivace::VIVACE_ISA
