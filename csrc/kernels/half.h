// Conversions between float32 and the 16-bit floats, sixteen lanes at a time. Rounding is to nearest, ties to even.
#pragma once

#include "kernels/vector.h"

namespace vivace::VIVACE_ISA {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

VIVACE_INLINE float to_float(float value) { return value; }

VIVACE_INLINE float to_float(BFloat16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

VIVACE_INLINE float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // Shifted into place the exponent is 112 too small; the product corrects it and normalises subnormals.
  return float_of_bits(sign | float_bits(float_of_bits(magnitude << 13) * 0x1p112f));
}

VIVACE_INLINE void from_float(float value, float& out) { out = value; }

VIVACE_INLINE void from_float(float value, BFloat16& out) {
  const uint32_t bits = float_bits(value);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  out.bits = static_cast<uint16_t>(is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

VIVACE_INLINE void from_float(float value, Float16& out) {
  const uint32_t bits = float_bits(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // 65520 and above round to infinity
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: the addition rounds at the subnormals' last bit, 2^-24
    half = float_bits(float_of_bits(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  }
  out.bits = static_cast<uint16_t>(sign | half);
}

VIVACE_INLINE V16 load16(const float* from) { return load(from); }

VIVACE_INLINE V16 load16(const BFloat16* from) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))}};
#elif defined(__AVX2__)
  V16 out;
  for (int i = 0; i < 2; ++i) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i));
    out.part[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  return out;
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = to_float(from[i]);
  return load(lanes);
#endif
}

VIVACE_INLINE V16 load16(const Float16* from) {
#if defined(__AVX512F__)
  return {{_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))}};
#elif defined(__AVX2__)
  V16 out;
  for (int i = 0; i < 2; ++i) {
    out.part[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i)));
  }
  return out;
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = to_float(from[i]);
  return load(lanes);
#endif
}

VIVACE_INLINE void store16(float* to, V16 value) { store(to, value); }

VIVACE_INLINE void store16(BFloat16* to, V16 value) {
#if defined(__AVX512F__)
  const __m512i bits = _mm512_castps_si512(value.part[0]);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value.part[0], value.part[0], _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i upper = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(upper));
#else
  float lanes[16];
  store(lanes, value);
  for (int i = 0; i < 16; ++i) from_float(lanes[i], to[i]);  // without branches: the compiler makes vectors of it
#endif
}

VIVACE_INLINE void store16(Float16* to, V16 value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(value.part[0], _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8 * i), _mm256_cvtps_ph(value.part[i], _MM_FROUND_TO_NEAREST_INT));
  }
#else
  float lanes[16];
  store(lanes, value);
  for (int i = 0; i < 16; ++i) from_float(lanes[i], to[i]);
#endif
}

}  // namespace vivace::VIVACE_ISA
