// Activations as int8, a float32 scale for each group of 32 of a row (max |x| / 127), interleaved for a tile of R rows.
//
// Record of one group: codes [8 lines][R][4], scale [R], then for layouts with an offset an int32 -offset x (sum of the
// codes) [R] (two for scales of 16 inputs), for affine layouts a float32 scale x (sum of the codes) [R].
// A scale of max / 127 for 32 values is what llama.cpp's Q8_0 rows do, except that theirs is rounded to f16.
#pragma once

#include "linear/codes.h"
#include "linear/row_tiles.h"

namespace vivace::VIVACE_ISA {

template <Layout L, int R>
struct Int8Record {
  static constexpr int EXTRAS = GROUP_INPUTS / block_geometry(L).scale_inputs;
  static constexpr int BYTES_A_ROW = GROUP_INPUTS + 4 + 4 * EXTRAS;
  static constexpr int BYTES = R * BYTES_A_ROW;

  [[gnu::always_inline]] static constexpr int codes_at(int line, int row) { return (line * R + row) * 4; }
  [[gnu::always_inline]] static constexpr int scale_at(int row) { return R * GROUP_INPUTS + row * 4; }
  [[gnu::always_inline]] static constexpr int extra_at(int half, int row) {
    return R * (GROUP_INPUTS + 4) + (half * R + row) * 4;
  }
};

struct Int8Group {
  alignas(32) int8_t codes[GROUP_INPUTS];
  float scale;
  int32_t sums[2];  // of each half's codes
};

// Bits of |x| compare as integers; NaN is the largest, so that a row with one gives NaN and not a wrong number.
VIVACE_INLINE float group_scale(uint32_t largest_bits) {
  const float largest = float_from_bits(largest_bits);
  return largest < 1e-30f ? 0.0f : largest / 127.0f;
}

#if defined(__AVX512F__)

VIVACE_INLINE void quantize_group(const float* x, Int8Group& out) {
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const __m512i largest = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                           _mm512_and_si512(_mm512_castps_si512(high), magnitude));
  out.scale = group_scale(static_cast<uint32_t>(_mm512_reduce_max_epi32(largest)));
  const __m512 inverse = _mm512_set1_ps(out.scale > 0.0f ? 1.0f / out.scale : 0.0f);
  const __m512i low_codes = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i high_codes = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  _mm_store_si128(reinterpret_cast<__m128i*>(out.codes), _mm512_cvtepi32_epi8(low_codes));
  _mm_store_si128(reinterpret_cast<__m128i*>(out.codes + 16), _mm512_cvtepi32_epi8(high_codes));
  out.sums[0] = _mm512_reduce_add_epi32(low_codes);
  out.sums[1] = _mm512_reduce_add_epi32(high_codes);
}

#else

// Adding 1.5 x 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
VIVACE_INLINE void quantize_group(const float* x, Int8Group& out) {
  uint32_t largest = 0;
  for (int i = 0; i < GROUP_INPUTS; ++i) {
    const uint32_t bits = bits_from_float(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  out.scale = group_scale(largest);
  const float inverse = out.scale > 0.0f ? 1.0f / out.scale : 0.0f;
  out.sums[0] = out.sums[1] = 0;
  for (int i = 0; i < GROUP_INPUTS; ++i) {
    const auto code = static_cast<int8_t>(bits_from_float(x[i] * inverse + 12582912.0f) & 255u);
    out.codes[i] = code;
    out.sums[i / 16] += code;
  }
}

#endif

template <Layout L>
void prepare_int8_row(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile) {
  constexpr BlockGeometry G = block_geometry(L);
  constexpr int OFFSET = G.code_bits == 8 && SIGNED_8_BIT_CODES ? 0 : G.offset;
  constexpr int EXTRAS = Int8Record<L, 1>::EXTRAS;
  const int64_t groups = num_superblocks(G, columns) * G.superblock_inputs / GROUP_INPUTS;
  for (int64_t g = 0; g < groups; ++g) {
    Int8Group group = {};
    if (g * GROUP_INPUTS < columns) quantize_group(x + g * GROUP_INPUTS, group);
    uint8_t* record = tile + g * tile_rows * Int8Record<L, 1>::BYTES;
    for (int line = 0; line < GROUP_LINES; ++line) {
      std::memcpy(record + (line * tile_rows + row) * 4, group.codes + line * 4, 4);
    }
    uint8_t* scale = record + tile_rows * GROUP_INPUTS + row * 4;
    std::memcpy(scale, &group.scale, 4);
    uint8_t* extra = scale + tile_rows * 4;
    if constexpr (G.affine) {
      const float sum = group.scale * static_cast<float>(group.sums[0] + group.sums[1]);
      std::memcpy(extra, &sum, 4);
    } else if constexpr (EXTRAS == 1) {
      const int32_t share = -OFFSET * (group.sums[0] + group.sums[1]);
      std::memcpy(extra, &share, 4);
    } else {
      for (int half = 0; half < EXTRAS; ++half) {
        const int32_t share = -OFFSET * group.sums[half];
        std::memcpy(extra + half * tile_rows * 4, &share, 4);
      }
    }
  }
}

}  // namespace vivace::VIVACE_ISA
