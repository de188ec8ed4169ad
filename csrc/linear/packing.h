// Packs quantised blocks and reads rows back; geometry.h says where each number goes.
#pragma once

#include "linear.h"

namespace vivace {

void pack_quantized(Layout layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns,
                    uint8_t* packed, int64_t block_begin, int64_t block_end);

// out[k] = W[row, k] * scale, any layout, with the roundings of the file format's own dequantise before the scale.
void unpack_row(const PackedMatrix& matrix, int64_t row, float scale, float* out);

}  // namespace vivace
