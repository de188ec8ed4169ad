// Scalar conversions between float32 and the 16-bit floats.
//
// Static: files compiled for different instruction sets must not share one copy.
#pragma once

#include <cstdint>
#include <cstring>

namespace vivace {

static inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bits_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Exact, subnormals included: the half's exponent and fraction are read as a float 2^112 too small.
static inline float float_from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  if ((half & 0x7c00u) == 0x7c00u) return float_from_bits(sign | 0x7f800000u | magnitude);
  return float_from_bits(sign | bits_from_float(float_from_bits(magnitude) * 0x1p112f));
}

static inline float float_from_bfloat(uint16_t value) { return float_from_bits(static_cast<uint32_t>(value) << 16); }

static inline uint16_t load_u16(const uint8_t* from) {
  uint16_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace vivace
