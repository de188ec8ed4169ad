// The linear kernels of one instruction set; included by isa/linear.cpp alone.
#pragma once

#include "linear/dense_tile.h"
#include "linear/integer_tile.h"
#include "linear/packing.h"

namespace vivace::VIVACE_ISA {

using PrepareRow = void (*)(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile);

// The form of activations that a layout's kernel reads. The int8 forms differ in what follows the scales.
enum class Activations : int { FLOAT = 1, BFLOAT, INT8_SUM, INT8_OFFSET_8, INT8_OFFSET_16, INT8_OFFSET_128, INT8_Q6_K };

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
};

VIVACE_INLINE const LayoutKernel& layout_kernel(Layout layout) { return LAYOUT_KERNELS[static_cast<int>(layout)]; }

// Prepared bytes of one row of activations.
VIVACE_INLINE int64_t prepared_row_bytes(const PackedMatrix& matrix) {
  switch (layout_kernel(matrix.layout).activations) {
    case Activations::FLOAT: return matrix.columns * 4;
    case Activations::BFLOAT: return (matrix.columns + 1) / 2 * 4;
    default: break;
  }
  const BlockGeometry geometry = block_geometry(matrix.layout);
  const int64_t groups = num_superblocks(geometry, matrix.columns) * geometry.superblock_inputs / GROUP_INPUTS;
  return groups * (GROUP_INPUTS + 4 + 4 * (GROUP_INPUTS / geometry.scale_inputs));
}

inline int activation_kind(Layout layout) { return static_cast<int>(layout_kernel(layout).activations); }

inline size_t scratch_bytes(const PackedMatrix& matrix, int64_t num_rows) {
  return static_cast<size_t>(prepared_row_bytes(matrix)) * static_cast<size_t>(num_rows);
}

inline void prepare(const PackedMatrix& matrix, const float* x, int64_t ldx, int64_t num_rows, uint8_t* scratch,
                    int64_t row_begin, int64_t row_end) {
  const LayoutKernel& kernel = layout_kernel(matrix.layout);
  const int64_t row_bytes = prepared_row_bytes(matrix);
  const RowTiles tiles(num_rows, kernel.tile_rows);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int64_t tile = tiles.tile_of(row);
    const int64_t first = tiles.begin(tile);
    kernel.prepare_row(x + row * ldx, matrix.columns, tiles.rows(tile), row - first, scratch + first * row_bytes);
  }
}

// Panels keep one set of weight blocks and one set of row tiles in the second-level cache (1 MiB on Zen 4) while every
// pair of them is computed; the weights come from memory once.
inline constexpr int64_t WEIGHT_PANEL_BYTES = 384 << 10;
inline constexpr int64_t ROW_PANEL_BYTES = 256 << 10;
inline constexpr int64_t FETCH_DISTANCE = 16 << 10;
inline constexpr int64_t MIN_FETCH_ROWS = 3;

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
  RowTiles tiles;
  int64_t bytes_a_block;
  int64_t bytes_a_row;

  // What a tile of one block asks for. A single tile: its own stream, some way ahead. One of several, which read the
  // block again from the caches: its share of the next block.
  VIVACE_INLINE Fetch fetch(int64_t block, int64_t tile, TileRange range) const {
    if (kernel.piece_bytes == 0) return {};
    const uint8_t* weights = matrix.data + block * bytes_a_block;
    if (tiles.count == 1) {
      if (tiles.rows(0) < MIN_FETCH_ROWS) return {};
      return {weights + FETCH_DISTANCE, 1};
    }
    if (range.begin > 0 || block + 1 == output_blocks(matrix.rows)) return {};
    const int64_t shares = range.end - range.begin, pieces = bytes_a_block / kernel.piece_bytes;
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
  const LinearRun run{matrix,
                      scratch,
                      y,
                      ldy,
                      bias,
                      kernel,
                      RowTiles(num_rows, kernel.tile_rows),
                      block_bytes(matrix.layout, matrix.columns),
                      prepared_row_bytes(matrix)};
  const int64_t blocks_a_panel = run.bytes_a_block < WEIGHT_PANEL_BYTES ? WEIGHT_PANEL_BYTES / run.bytes_a_block : 1;
  const int64_t tile_bytes = run.bytes_a_row * kernel.tile_rows;
  const int64_t tiles_a_panel = tile_bytes < ROW_PANEL_BYTES ? ROW_PANEL_BYTES / tile_bytes : 1;
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
};

}  // namespace vivace::VIVACE_ISA
