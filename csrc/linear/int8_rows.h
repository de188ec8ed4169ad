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

inline constexpr int GROUPS_AT_ONCE = 4;

// Four groups of a row, as they lie in registers.
struct Int8Groups {
  alignas(64) int8_t codes[GROUPS_AT_ONCE * GROUP_INPUTS];
  alignas(64) float scales[16];     // four lanes for each group
  alignas(64) int32_t sums[2][16];  // of codes: four lanes for each half of a group

  VIVACE_INLINE float scale(int64_t group) const { return scales[group * 4]; }
  VIVACE_INLINE int32_t sum(int64_t group, int half) const { return sums[group / 2][group % 2 * 8 + half * 4]; }
};

// Bits of |x| compare as integers; NaN is the largest, so that a row with one gives NaN and not a wrong number.
VIVACE_INLINE float group_scale(uint32_t largest_bits) {
  const float largest = float_from_bits(largest_bits);
  return largest < 1e-30f ? 0.0f : largest / 127.0f;
}

#if defined(__AVX512F__)

VIVACE_INLINE __m512i magnitudes(const float* x) {
  return _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x)), _mm512_set1_epi32(0x7fffffff));
}

// Of four registers: quarter g of the result has the largest element of register g in all its lanes.
VIVACE_INLINE __m512i quarter_maxima(const __m512i (&values)[GROUPS_AT_ONCE]) {
  const __m512i first = _mm512_max_epi32(_mm512_shuffle_i64x2(values[0], values[1], 0x44),
                                         _mm512_shuffle_i64x2(values[0], values[1], 0xee));
  const __m512i second = _mm512_max_epi32(_mm512_shuffle_i64x2(values[2], values[3], 0x44),
                                          _mm512_shuffle_i64x2(values[2], values[3], 0xee));
  __m512i largest =
      _mm512_max_epi32(_mm512_shuffle_i64x2(first, second, 0x88), _mm512_shuffle_i64x2(first, second, 0xdd));
  largest = _mm512_max_epi32(largest, _mm512_shuffle_epi32(largest, _MM_PERM_BADC));
  return _mm512_max_epi32(largest, _mm512_shuffle_epi32(largest, _MM_PERM_CDAB));
}

// 64 codes in order of inputs. The low bytes, as they are: an infinity's code is 0 and its scale spoils the row.
VIVACE_INLINE __m512i codes_of(const float* x, __m512 first_inverse, __m512 second_inverse) {
  __m512i wide[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + i * 16), i < 2 ? first_inverse : second_inverse);
    wide[i] = _mm512_and_si512(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(255));
  }
  const __m512i packed = _mm512_packus_epi16(_mm512_packus_epi32(wide[0], wide[1]), _mm512_packus_epi32(wide[2], wide[3]));
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
}

// Of four bytes, then of four of those.
VIVACE_INLINE __m512i sums_of(__m512i codes) {
  const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
  const __m512i pairs = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
  return _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_CDAB));
}

// Maxima and sums of four groups are combined as parts of one register, with a quarter of the shuffles of a reduction
// for each, and two divisions serve all of them.
VIVACE_INLINE void quantize_groups(const float* x, Int8Groups& out) {
  __m512i largest[GROUPS_AT_ONCE];
#pragma GCC unroll 4
  for (int g = 0; g < GROUPS_AT_ONCE; ++g) {
    largest[g] = _mm512_max_epi32(magnitudes(x + g * GROUP_INPUTS), magnitudes(x + g * GROUP_INPUTS + 16));
  }
  const __m512 maxima = _mm512_castsi512_ps(quarter_maxima(largest));
  const __mmask16 is_tiny = _mm512_cmp_ps_mask(maxima, _mm512_set1_ps(1e-30f), _CMP_LT_OQ);
  const __m512 scales = _mm512_mask_blend_ps(is_tiny, _mm512_div_ps(maxima, _mm512_set1_ps(127.0f)), _mm512_setzero_ps());
  const __mmask16 is_positive = _mm512_cmp_ps_mask(scales, _mm512_setzero_ps(), _CMP_GT_OQ);
  const __m512 inverses = _mm512_maskz_div_ps(is_positive, _mm512_set1_ps(1.0f), scales);
  const __m512i low = codes_of(x, _mm512_shuffle_f32x4(inverses, inverses, 0x00),
                               _mm512_shuffle_f32x4(inverses, inverses, 0x55));
  const __m512i high = codes_of(x + 64, _mm512_shuffle_f32x4(inverses, inverses, 0xaa),
                                _mm512_shuffle_f32x4(inverses, inverses, 0xff));
  _mm512_store_ps(out.scales, scales);
  _mm512_store_si512(out.codes, low);
  _mm512_store_si512(out.codes + 64, high);
  _mm512_store_si512(out.sums[0], sums_of(low));
  _mm512_store_si512(out.sums[1], sums_of(high));
}

#else

// Adding 1.5 x 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
VIVACE_INLINE void quantize_groups(const float* x, Int8Groups& out) {
  for (int g = 0; g < GROUPS_AT_ONCE; ++g, x += GROUP_INPUTS) {
    uint32_t largest = 0;
    for (int i = 0; i < GROUP_INPUTS; ++i) {
      const uint32_t bits = bits_from_float(x[i]) & 0x7fffffffu;
      largest = bits > largest ? bits : largest;
    }
    const float scale = out.scales[g * 4] = group_scale(largest);
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int32_t sums[2] = {};
    for (int i = 0; i < GROUP_INPUTS; ++i) {
      const auto code = static_cast<int8_t>(bits_from_float(x[i] * inverse + 12582912.0f) & 255u);
      out.codes[g * GROUP_INPUTS + i] = code;
      sums[i / 16] += code;
    }
    for (int half = 0; half < 2; ++half) out.sums[g / 2][g % 2 * 8 + half * 4] = sums[half];
  }
}

#endif

// Puts a row's group into the record of its tile.
template <Layout L>
VIVACE_INLINE void store_group(const Int8Groups& groups, int64_t group, int64_t tile_rows, int64_t row,
                               uint8_t* record) {
  constexpr BlockGeometry G = block_geometry(L);
  constexpr int OFFSET = G.code_bits == 8 && SIGNED_8_BIT_CODES ? 0 : G.offset;
  constexpr int EXTRAS = Int8Record<L, 1>::EXTRAS;
#pragma GCC unroll 8
  for (int line = 0; line < GROUP_LINES; ++line) {
    std::memcpy(record + (line * tile_rows + row) * 4, groups.codes + group * GROUP_INPUTS + line * 4, 4);
  }
  const float scale = groups.scale(group);
  uint8_t* scale_at = record + tile_rows * GROUP_INPUTS + row * 4;
  std::memcpy(scale_at, &scale, 4);
  uint8_t* extra = scale_at + tile_rows * 4;
  if constexpr (G.affine) {
    const float sum = scale * static_cast<float>(groups.sum(group, 0) + groups.sum(group, 1));
    std::memcpy(extra, &sum, 4);
  } else if constexpr (EXTRAS == 1) {
    const int32_t share = -OFFSET * (groups.sum(group, 0) + groups.sum(group, 1));
    std::memcpy(extra, &share, 4);
  } else {
    for (int half = 0; half < EXTRAS; ++half) {
      const int32_t share = -OFFSET * groups.sum(group, half);
      std::memcpy(extra + half * tile_rows * 4, &share, 4);
    }
  }
}

// The last groups of a row, fewer than GROUPS_AT_ONCE, are quantised with zeros behind them.
template <Layout L>
void prepare_int8_row(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile) {
  constexpr BlockGeometry G = block_geometry(L);
  constexpr int64_t INPUTS_AT_ONCE = GROUPS_AT_ONCE * GROUP_INPUTS;
  const int64_t groups = num_superblocks(G, columns) * G.superblock_inputs / GROUP_INPUTS;
  for (int64_t first = 0; first < groups; first += GROUPS_AT_ONCE) {
    const int64_t left = columns - first * GROUP_INPUTS;
    Int8Groups quantized;
    if (left >= INPUTS_AT_ONCE) {
      quantize_groups(x + first * GROUP_INPUTS, quantized);
    } else {
      float padded[INPUTS_AT_ONCE] = {};
      if (left > 0) std::memcpy(padded, x + first * GROUP_INPUTS, static_cast<size_t>(left) * sizeof(float));
      quantize_groups(padded, quantized);
    }
    const int64_t count = groups - first < GROUPS_AT_ONCE ? groups - first : GROUPS_AT_ONCE;
    for (int64_t g = 0; g < count; ++g) {
      store_group<L>(quantized, g, tile_rows, row, tile + (first + g) * tile_rows * Int8Record<L, 1>::BYTES);
    }
  }
}

}  // namespace vivace::VIVACE_ISA
