// Queries and softmax weights as 16-bit integers, for products with the unsigned codes of a coded cache.
//
// Rounding one to 15 or 16 bits costs a product with codes less than a ten-thousandth of the largest element's share.
// The sums are exact integers, so no order of summation shows. A whole vector's or chunk's product stays below 2^31.
#pragma once

#include "kernels/vector.h"
#include "kv_layout.h"
#include "linear/codes.h"

namespace vivace::VIVACE_ISA {

template <int BITS>
inline constexpr float WORD_MAXIMUM = BITS == 8 ? 16383.0f : 32767.0f;
static_assert(255LL * 16383 * MAX_CODED_DIM <= INT32_MAX && 15LL * 32767 * MAX_CODED_DIM <= INT32_MAX);

// Rounds to integers, ties to even; |x| below 2^22. The integer is in the low bits once 1.5 x 2^23 is added.
VIVACE_INLINE I16 integers(V16 x) {
  I16 out;
  VIVACE_EACH out.part[i] = (IntRegister)(x.part[i] + 12582912.0f) - 0x4b400000;
  return out;
}

VIVACE_INLINE void store_bytes(uint8_t* to, I16 value) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)value.part[0]));
#else
  int32_t lanes[16];
  std::memcpy(lanes, &value, sizeof lanes);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>(lanes[i]);
#endif
}

VIVACE_INLINE void store_words(int16_t* to, I16 value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16((__m512i)value.part[0]));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packs_epi32((__m256i)value.part[0], (__m256i)value.part[1]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
#else
  int32_t lanes[16];
  std::memcpy(lanes, &value, sizeof lanes);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<int16_t>(lanes[i]);
#endif
}

VIVACE_INLINE int32_t load_pair(const int16_t* from) { return load_int(reinterpret_cast<const uint8_t*>(from)); }

// A line of codes holds PAIRS pairs of indices (dimensions of a key, tokens of values) for each of its 16 lanes. Pair p
// is indices 2p and 2p + 1, as 16-bit numbers: bytes 0 and 2 of a lane, then bytes 1 and 3, then their upper halves.
template <int BITS>
inline constexpr int PAIRS = BITS == 8 ? 2 : 4;

template <int BITS, int PAIR>
VIVACE_INLINE Codes pair_of_line(Codes line) {
  constexpr int SHIFT = PAIR % 2 * 8 + PAIR / 2 * 4;
  line = shifted<-SHIFT>(line);
  if constexpr (SHIFT + BITS < 16) VIVACE_EACH line.part[i] &= IntRegister{} + ((1 << BITS) - 1) * 0x00010001;
  return line;
}

// sum + the products of two codes with two words, for 16 lanes.
VIVACE_INLINE I16 dot2(I16 sum, Codes codes, int32_t words) {
#if defined(__AVX512F__)
  sum.part[0] = (IntRegister)_mm512_dpwssd_epi32((__m512i)sum.part[0], (__m512i)codes.part[0],
                                                 _mm512_set1_epi32(words));
#elif defined(__AVX2__)
  VIVACE_EACH sum.part[i] += (IntRegister)_mm256_madd_epi16((__m256i)codes.part[i], _mm256_set1_epi32(words));
#else
  const int32_t first = static_cast<int16_t>(words), second = words >> 16;
  VIVACE_EACH sum.part[i] += (codes.part[i] & 0xffff) * first + (codes.part[i] >> 16) * second;
#endif
  return sum;
}

VIVACE_INLINE I16 operator+(I16 a, I16 b) {
  VIVACE_EACH a.part[i] += b.part[i];
  return a;
}

}  // namespace vivace::VIVACE_ISA
