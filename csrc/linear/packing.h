// Packs quantised blocks and reads rows back; geometry.h says where each number goes.
#pragma once

#include "linear.h"

namespace vivace {

void pack_quantized(Layout layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns,
                    uint8_t* packed, int64_t block_begin, int64_t block_end);

// Of INT8_CHANNEL and INT8_OUTLIER, whose stored rows are alike.
void pack_int8_rows(const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
                    int64_t block_begin, int64_t block_end);

// Where the number of packed column k belongs.
struct InputPlaces {
  const int32_t* order;  // or null
  int64_t operator()(int64_t k) const { return order ? order[k] : k; }
};

// One lane of a packed block, as unpack_row gives it.
void unpack_int8_lane(const uint8_t* block, int64_t columns, int lane, float scale, InputPlaces places, float* out);

// out[input_order[k]] = W[row, k] * scale, any layout, with the roundings of the file format's own dequantise before the scale.
void unpack_row(const PackedMatrix& matrix, int64_t row, float scale, float* out);

}  // namespace vivace
