// Round-to-nearest into blocks of 32 with one scale each, bit for bit as formats/quantize_rtn.py does it.
#pragma once

#include "device.h"

namespace vivace {

// Encodes `rows` rows of `columns` floats (F32, F16 or BF16, row_stride bytes apart) as Q8_0 or Q4_0, one row after
// the other, in parallel. columns is a multiple of 32. False if a number is NaN or infinite or too large for a
// half-precision scale: `out` is then worth nothing.
bool encode_blocks(Device& device, Layout from, const uint8_t* stored, int64_t row_stride, int64_t rows,
                   int64_t columns, Layout to, uint8_t* out);

}  // namespace vivace
