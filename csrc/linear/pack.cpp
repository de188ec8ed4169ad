#include <algorithm>
#include <cstring>

#include "linear/geometry.h"
#include "linear/packing.h"

namespace vivace {

namespace {

// Element k of lane c goes to element k * 16 + c, or for bf16 pairs to (k / 2 * 16 + c) * 2 + k % 2.
template <class Element, int PAIR>
void pack_dense(const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, int64_t bytes_a_block,
                uint8_t* packed, int64_t block_begin, int64_t block_end) {
  constexpr int64_t TILE = 64;  // inputs: 16 rows of a tile stay in the first-level cache
  for (int64_t block = block_begin; block < block_end; ++block) {
    const int64_t row = block * OUTPUT_BLOCK;
    const int64_t num_lanes = std::min(OUTPUT_BLOCK, rows - row);
    uint8_t* to = packed + block * bytes_a_block;
    for (int64_t begin = 0; begin < columns; begin += TILE) {
      const int64_t end = std::min(columns, begin + TILE);
      for (int64_t lane = 0; lane < num_lanes; ++lane) {
        const uint8_t* from = stored_rows + (row + lane) * row_stride;
        for (int64_t k = begin; k < end; ++k) {
          const int64_t at = (k / PAIR * OUTPUT_BLOCK + lane) * PAIR + k % PAIR;
          std::memcpy(to + at * int64_t{sizeof(Element)}, from + k * int64_t{sizeof(Element)}, sizeof(Element));
        }
      }
    }
  }
}

}  // namespace

size_t packed_bytes(Layout layout, int64_t rows, int64_t columns) {
  return static_cast<size_t>(output_blocks(rows)) * static_cast<size_t>(block_bytes(layout, columns));
}

void pack(Layout layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
          int64_t block_begin, int64_t block_end) {
  const auto dense = [&](auto pack_layout) {
    pack_layout(stored_rows, row_stride, rows, columns, block_bytes(layout, columns), packed, block_begin, block_end);
  };
  switch (layout) {
    case Layout::F32: return dense(pack_dense<uint32_t, 1>);
    case Layout::F16: return dense(pack_dense<uint16_t, 1>);
    case Layout::BF16: return dense(pack_dense<uint16_t, 2>);
    case Layout::INT8_CHANNEL:
    case Layout::INT8_OUTLIER:
      return pack_int8_rows(stored_rows, row_stride, rows, columns, packed, block_begin, block_end);
    default: pack_quantized(layout, stored_rows, row_stride, rows, columns, packed, block_begin, block_end);
  }
}

}  // namespace vivace
