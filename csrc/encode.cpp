#include "encode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "linear/half.h"

namespace vivace {

namespace {

constexpr int BLOCK = 32;
constexpr uint32_t MAGNITUDE = 0x7fffffffu;
constexpr uint32_t FLOAT_INFINITY = 0x7f800000u;

// Rounds to nearest, ties to even; too large a number becomes infinite. Not for NaN.
uint16_t half_from_float(float value) {
  const uint32_t bits = bits_from_float(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & MAGNITUDE;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 rounds to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: the sum's last bit is worth 2^-24, as a subnormal half's
    const uint32_t rounded = bits_from_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<uint16_t>(sign | rounded);
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0x0fffu + (magnitude >> 13 & 1)) >> 13));
}

template <Layout FROM>
void read_block(const uint8_t* stored, float* values) {
  if constexpr (FROM == Layout::F32) {
    std::memcpy(values, stored, BLOCK * sizeof(float));
  } else {
    uint16_t halves[BLOCK];
    std::memcpy(halves, stored, sizeof halves);
    for (int i = 0; i < BLOCK; ++i) {
      values[i] = FROM == Layout::BF16 ? float_from_bfloat(halves[i]) : float_from_half(halves[i]);
    }
  }
}

uint32_t largest_magnitude(const float* values) {
  int32_t largest = 0;
  for (int i = 0; i < BLOCK; ++i) {
    const auto magnitude = static_cast<int32_t>(bits_from_float(values[i]) & MAGNITUDE);
    largest = magnitude > largest ? magnitude : largest;
  }
  return static_cast<uint32_t>(largest);
}

// 1 / scale, and 0 where that overflows: such a scale is 0 in half precision anyway.
float inverse(float scale) {
  const float result = 1.0f / scale;
  return (bits_from_float(result) & MAGNITUDE) < FLOAT_INFINITY ? result : 0.0f;
}

bool write_scale(float scale, uint8_t* out) {
  const uint16_t half = half_from_float(scale);
  std::memcpy(out, &half, sizeof half);
  return (half & 0x7c00u) != 0x7c00u;
}

// d = max |w| / 127, q = w / d rounded half away from zero.
bool encode_q8_0(const float* values, uint8_t* out) {
  const uint32_t largest = largest_magnitude(values);
  if (largest >= FLOAT_INFINITY) return false;
  const float scale = float_from_bits(largest) / 127.0f;
  const float factor = inverse(scale);
  int8_t codes[BLOCK];
  for (int i = 0; i < BLOCK; ++i) {
    const float magnitude = std::fabs(values[i] * factor);
    const auto whole = static_cast<int32_t>(magnitude);
    const int32_t rounded = whole + static_cast<int32_t>(2.0f * (magnitude - static_cast<float>(whole)));
    const int32_t sign = static_cast<int32_t>(bits_from_float(values[i])) >> 31;  // -1 or 0
    codes[i] = static_cast<int8_t>((rounded ^ sign) - sign);
  }
  std::memcpy(out + 2, codes, sizeof codes);
  return write_scale(scale, out);
}

// d = the first number of largest magnitude / -8, so that it becomes -8 exactly; q = w / d + 8 rounded, at most 15.
bool encode_q4_0(const float* values, uint8_t* out) {
  const uint32_t largest = largest_magnitude(values);
  if (largest >= FLOAT_INFINITY) return false;
  int first = 0;
  while ((bits_from_float(values[first]) & MAGNITUDE) != largest) ++first;
  const float scale = values[first] / -8.0f;
  const float factor = inverse(scale);
  int32_t codes[BLOCK];
  for (int i = 0; i < BLOCK; ++i) {
    const auto code = static_cast<int32_t>(values[i] * factor + 8.5f);
    codes[i] = code < 15 ? code : 15;
  }
  for (int i = 0; i < BLOCK / 2; ++i) out[2 + i] = static_cast<uint8_t>(codes[i] | codes[i + BLOCK / 2] << 4);
  return write_scale(scale, out);
}

template <Layout FROM, Layout TO>
bool encode_row(const uint8_t* stored, int64_t columns, uint8_t* out) {
  constexpr int64_t FROM_BYTES = FROM == Layout::F32 ? 4 : 2;
  constexpr int64_t TO_BYTES = TO == Layout::Q8_0 ? 34 : 18;
  bool representable = true;
  for (int64_t column = 0; column < columns; column += BLOCK) {
    float values[BLOCK];
    read_block<FROM>(stored + column * FROM_BYTES, values);
    uint8_t* block = out + column / BLOCK * TO_BYTES;
    representable &= TO == Layout::Q8_0 ? encode_q8_0(values, block) : encode_q4_0(values, block);
  }
  return representable;
}

template <Layout TO>
bool encode_row_of(Layout from, const uint8_t* stored, int64_t columns, uint8_t* out) {
  switch (from) {
    case Layout::F32: return encode_row<Layout::F32, TO>(stored, columns, out);
    case Layout::F16: return encode_row<Layout::F16, TO>(stored, columns, out);
    default: return encode_row<Layout::BF16, TO>(stored, columns, out);
  }
}

}  // namespace

bool encode_blocks(Device& device, Layout from, const uint8_t* stored, int64_t row_stride, int64_t rows,
                   int64_t columns, Layout to, uint8_t* out) {
  const int64_t out_stride = columns / BLOCK * (to == Layout::Q8_0 ? 34 : 18);
  std::atomic<bool> representable{true};
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* data = stored + row * row_stride;
      uint8_t* encoded = out + row * out_stride;
      const bool fits = to == Layout::Q8_0 ? encode_row_of<Layout::Q8_0>(from, data, columns, encoded)
                                           : encode_row_of<Layout::Q4_0>(from, data, columns, encoded);
      if (!fits) representable = false;
    }
  });
  return representable;
}

}  // namespace vivace
