// How rows of activations are cut into tiles, and the shape of a tile kernel.
//
// A tile of R rows is computed with one pass over a block of weights; its activations lie interleaved, so that the
// kernel reads one stream of them. R differs from tile to tile, the order of each sum does not.
#pragma once

#include "linear.h"
#include "linear/fetch.h"

namespace vivace::VIVACE_ISA {

// Rows in flight, by what the registers hold: 32 of 16 lanes, 16 of 8, 16 of 4.
#if defined(__AVX512F__)
inline constexpr int INTEGER_TILE_ROWS = 8;
inline constexpr int DENSE_TILE_ROWS = 12;
#elif defined(__AVX2__)
inline constexpr int INTEGER_TILE_ROWS = 4;
inline constexpr int DENSE_TILE_ROWS = 3;
#else
inline constexpr int INTEGER_TILE_ROWS = 2;
inline constexpr int DENSE_TILE_ROWS = 2;
#endif

// Tiles of nearly equal height: 13 rows in tiles of at most 12 are 7 + 6, not 12 + 1.
struct RowTiles {
  int64_t count;
  int64_t height;  // of most tiles
  int64_t taller;  // the first `taller` tiles have one row more

  VIVACE_INLINE RowTiles(int64_t num_rows, int64_t max_height)
      : count((num_rows + max_height - 1) / max_height), height(count ? num_rows / count : 0),
        taller(count ? num_rows % count : 0) {}

  VIVACE_INLINE int64_t begin(int64_t tile) const { return tile * height + (tile < taller ? tile : taller); }
  VIVACE_INLINE int64_t rows(int64_t tile) const { return height + (tile < taller ? 1 : 0); }
  VIVACE_INLINE int64_t tile_of(int64_t row) const {
    const int64_t in_taller = taller * (height + 1);
    return row < in_taller ? row / (height + 1) : taller + (row - in_taller) / height;
  }
};

// Sixteen outputs (or fewer, in the last block) of R rows.
struct TileOutput {
  float* y;
  int64_t ldy;
  const float* bias;  // of these outputs, or null
  int64_t num_outputs;
  Fetch fetch = {};  // what to ask memory for meanwhile
};

// weights: one packed block; x: the tile's prepared activations.
using TileKernel = void (*)(const uint8_t* weights, int64_t columns, const uint8_t* x, const TileOutput& out);

template <int R>
VIVACE_INLINE void store_tile(const V16 (&sums)[R], const TileOutput& out) {
  if (out.num_outputs == 16) {
    const V16 bias = out.bias ? load(out.bias) : zero();
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) store(out.y + r * out.ldy, out.bias ? sums[r] + bias : sums[r]);
    return;
  }
  const V16 bias = out.bias ? load_first(out.bias, out.num_outputs) : zero();
  for (int r = 0; r < R; ++r) {
    store_first(out.y + r * out.ldy, out.bias ? sums[r] + bias : sums[r], out.num_outputs);
  }
}

}  // namespace vivace::VIVACE_ISA
