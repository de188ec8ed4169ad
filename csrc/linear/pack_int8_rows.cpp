// Packs and reads rows of int8 codes with one scale each; geometry.h says where each number goes.
#include <algorithm>
#include <cstring>

#include "linear/geometry.h"
#include "linear/packing.h"

namespace vivace {

namespace {

constexpr int STORED_SCALE_BYTES = 4;

}  // namespace

void pack_int8_rows(const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
                    int64_t block_begin, int64_t block_end) {
  constexpr int64_t TILE = 64;  // inputs: the lines of a tile stay in the first-level cache
  const int64_t bytes_a_block = block_bytes(Layout::INT8_CHANNEL, columns);
  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t row = block * OUTPUT_BLOCK;
    const int64_t num_lanes = std::min(OUTPUT_BLOCK, rows - row);
    const uint8_t* from = stored_rows + row * row_stride;
    uint8_t* to = packed + block * bytes_a_block;
    uint8_t* lines = to + INT8_ROW_SCALE_BYTES;
    for (int64_t lane = 0; lane < num_lanes; ++lane) std::memcpy(to + lane * 4, from + lane * row_stride, 4);
    for (int64_t begin = 0; begin < columns; begin += TILE) {
      const int64_t end = std::min(columns, begin + TILE);
      for (int64_t lane = 0; lane < num_lanes; ++lane) {
        const uint8_t* codes = from + lane * row_stride + STORED_SCALE_BYTES;
        for (int64_t k = begin; k < end; ++k) {
          lines[k / 4 * LINE_BYTES + lane * 4 + k % 4] = codes[k] ^ 0x80;  // int8 + 128
        }
      }
    }
  }
}

void unpack_int8_lane(const uint8_t* block, int64_t columns, int lane, float scale, InputPlaces places, float* out) {
  float factor;
  std::memcpy(&factor, block + lane * 4, sizeof factor);
  const uint8_t* lines = block + INT8_ROW_SCALE_BYTES;
  for (int64_t k = 0; k < columns; ++k) {
    const int code = lines[k / 4 * LINE_BYTES + lane * 4 + k % 4] - 128;
    out[places(k)] = factor * static_cast<float>(code) * scale;
  }
}

}  // namespace vivace
