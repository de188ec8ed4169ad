#include "linear.h"

#include <cstring>

namespace vivace {

size_t packed_bytes(Layout, int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows) * static_cast<size_t>(columns) * 4;
}

void pack(Layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
          int64_t block_begin, int64_t block_end) {
  const int64_t end = block_end * OUTPUT_BLOCK < rows ? block_end * OUTPUT_BLOCK : rows;
  for (int64_t row = block_begin * OUTPUT_BLOCK; row < end; ++row) {
    std::memcpy(packed + row * columns * 4, stored_rows + row * row_stride, static_cast<size_t>(columns) * 4);
  }
}

}  // namespace vivace
