// Lines of weight codes as registers: unpacking, and their product with four activations.
//
// A line is 4 inputs x 16 outputs, unsigned bytes; dot4 adds to sixteen int32 sums the product with the same four int8
// activations, exactly.
#pragma once

#include "kernels/vector.h"
#include "linear/geometry.h"
#include "linear/half.h"

namespace vivace::VIVACE_ISA {

struct I16 {
  IntRegister part[V16_REGISTERS];
};

struct Codes {
  IntRegister part[V16_REGISTERS];
};

typedef uint16_t ShortRegister __attribute__((vector_size(REGISTER_LANES * 4)));

VIVACE_INLINE I16 splat_int(int32_t value) {
  I16 out;
  VIVACE_EACH out.part[i] = IntRegister{} + value;
  return out;
}

VIVACE_INLINE int32_t load_int(const uint8_t* from) {
  int32_t value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

VIVACE_INLINE float load_float(const uint8_t* from) {
  float value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

VIVACE_INLINE V16 to_float(I16 value) {
  V16 out;
#if defined(__AVX512F__)
  out.part[0] = _mm512_cvtepi32_ps((__m512i)value.part[0]);
#elif defined(__AVX2__)
  VIVACE_EACH out.part[i] = _mm256_cvtepi32_ps((__m256i)value.part[i]);
#else
  VIVACE_EACH out.part[i] = __builtin_convertvector(value.part[i], FloatRegister);
#endif
  return out;
}

VIVACE_INLINE Codes load_line(const uint8_t* from) {
  Codes out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

// Shifts by SHIFT bits to the left, or to the right if negative, within 16 bits; a mask drops what crossed bytes.
template <int SHIFT>
VIVACE_INLINE Codes shifted(Codes codes) {
  if constexpr (SHIFT > 0) VIVACE_EACH codes.part[i] = (IntRegister)((ShortRegister)codes.part[i] << SHIFT);
  if constexpr (SHIFT < 0) VIVACE_EACH codes.part[i] = (IntRegister)((ShortRegister)codes.part[i] >> -SHIFT);
  return codes;
}

template <int MASK>
VIVACE_INLINE Codes masked(Codes codes) {
  VIVACE_EACH codes.part[i] &= IntRegister{} + MASK * 0x01010101;
  return codes;
}

// Line LINE (0..7) of group GROUP (0, 1) of a chunk, one byte a code.
template <int CODE_BITS, int GROUP, int LINE>
VIVACE_INLINE Codes unpack_line(const uint8_t* chunk) {
  if constexpr (CODE_BITS == 8) {
    return load_line(chunk + (GROUP * GROUP_LINES + LINE) * LINE_BYTES);
  } else {
    constexpr int EXTRA = CODE_BITS - 4;
    constexpr int PLANES = 2 * EXTRA;
    Codes codes = masked<15>(shifted<-4 * GROUP>(load_line(chunk + (PLANES + LINE) * LINE_BYTES)));
    if constexpr (EXTRA > 0) {
      constexpr int LINES_A_PLANE = 8 / EXTRA;
      constexpr int PLANE = GROUP * EXTRA + LINE / LINES_A_PLANE;
      const uint8_t* plane = chunk + PLANE * LINE_BYTES;
      const Codes upper =
          masked<(EXTRA == 1 ? 0x10 : 0x30)>(shifted<4 - LINE % LINES_A_PLANE * EXTRA>(load_line(plane)));
      VIVACE_EACH codes.part[i] |= upper.part[i];
    }
    return codes;
  }
}

// Without VNNI, products of two bytes are summed in pairs to 16 bits first, which 8-bit unsigned codes would saturate:
// those are taken as signed there (|code| <= 128, 2 x 128 x 127 < 2^15), so the activations carry no offset for them.
#if defined(__AVX2__) && !defined(__AVX512F__)
inline constexpr bool SIGNED_8_BIT_CODES = true;
#else
inline constexpr bool SIGNED_8_BIT_CODES = false;
#endif

template <int CODE_BITS>
VIVACE_INLINE I16 dot4(I16 sum, Codes codes, int32_t activations) {
#if defined(__AVX512F__)
  sum.part[0] = (IntRegister)_mm512_dpbusd_epi32((__m512i)sum.part[0], (__m512i)codes.part[0],
                                                 _mm512_set1_epi32(activations));
#elif defined(__AVX2__)
  const __m256i four = _mm256_set1_epi32(activations);
  VIVACE_EACH {
    __m256i unsigned_codes = (__m256i)codes.part[i];
    __m256i signed_activations = four;
    if constexpr (CODE_BITS == 8) {
      const __m256i signed_codes = _mm256_xor_si256(unsigned_codes, _mm256_set1_epi8(-128));
      unsigned_codes = _mm256_abs_epi8(signed_codes);
      signed_activations = _mm256_sign_epi8(four, signed_codes);
    }
    const __m256i pairs = _mm256_maddubs_epi16(unsigned_codes, signed_activations);
    sum.part[i] += (IntRegister)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
#else
  for (int byte = 0; byte < 4; ++byte) {
    const int32_t activation = static_cast<int8_t>(static_cast<uint32_t>(activations) >> byte * 8);
    VIVACE_EACH sum.part[i] += ((codes.part[i] >> byte * 8) & 255) * activation;
  }
#endif
  return sum;
}

VIVACE_INLINE V16 load_halves(const uint8_t* from) {
  V16 out;
#if defined(__AVX512F__)
  out.part[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  VIVACE_EACH out.part[i] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i));
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = float_from_half(load_u16(from + i * 2));
  out = load(lanes);
#endif
  return out;
}

template <class Byte>
VIVACE_INLINE V16 load_bytes(const uint8_t* from) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  V16 out;
  out.part[0] = _mm512_cvtepi32_ps(Byte(-1) < 0 ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
  return out;
#else
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(static_cast<Byte>(from[i]));
  return load(lanes);
#endif
}

}  // namespace vivace::VIVACE_ISA
