// Float vectors as 14-bit integers for the integer dot product: n = 128 * high + low, |n| <= 8191, two signed bytes.
//
// One byte would cost an attention as much precision as the int8 cache itself; two make the error of a product with
// codes less than a ten-thousandth of the largest element's share. The sums are exact integers, so no order of
// summation shows, and |low| <= 64 keeps the pair sums of instruction sets without VNNI below 2^15.
#pragma once

#include "kernels/vector.h"
#include "linear/codes.h"

namespace vivace::VIVACE_ISA {

inline constexpr float WIDE_CODE_MAXIMUM = 8191.0f;

// Rounds to integers, ties to even; |x| below 2^22.
VIVACE_INLINE V16 rounded(V16 x) {
  const V16 magic = splat(12582912.0f);
  return (x + magic) - magic;
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

// The integer of a float that holds one in [-2^22, 2^22]: it is in the low bits after 1.5 x 2^23 is added.
VIVACE_INLINE I16 integers(V16 x) {
  I16 out;
  VIVACE_EACH out.part[i] = (IntRegister)(x.part[i] + 12582912.0f) - 0x4b400000;
  return out;
}

// The bytes of vectors of one length: `length` high ones, then `length` low ones.
struct WideCodes {
  uint8_t* bytes;
  int64_t length;

  VIVACE_INLINE void put(int64_t index, V16 whole) const {
    const I16 code = integers(whole);
    I16 high, low;
    VIVACE_EACH {
      high.part[i] = (code.part[i] + 64) >> 7;
      low.part[i] = code.part[i] - (high.part[i] << 7);
    }
    store_bytes(bytes + index, high);
    store_bytes(bytes + length + index, low);
  }
};

// The sum of products of a line of codes with four wide codes, for 16 lanes.
struct WideDot {
  I16 high = splat_int(0), low = splat_int(0);

  template <int BITS>
  VIVACE_INLINE void add(Codes line, const WideCodes& codes, int64_t index) {
    high = dot4<BITS>(high, line, load_int(codes.bytes + index));
    low = dot4<BITS>(low, line, load_int(codes.bytes + codes.length + index));
  }

  // `sum`: of the wide codes; needed where 8-bit codes were taken as signed.
  template <int BITS>
  VIVACE_INLINE V16 total(float sum) const {
    I16 out;
    const int32_t offset = BITS == 8 && SIGNED_8_BIT_CODES ? 128 * static_cast<int32_t>(sum) : 0;
    VIVACE_EACH out.part[i] = (high.part[i] << 7) + low.part[i] + offset;
    return to_float(out);
  }
};

}  // namespace vivace::VIVACE_ISA
