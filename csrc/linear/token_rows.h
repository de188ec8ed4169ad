// Activations as int8 with one float32 scale for a row (max |x| / 127), interleaved for a tile of R rows; for LLM.int8(),
// the inputs of magnitude 6.0 and more apart, as floats.
//
// Tile: codes [lines][R][4], int32 -offset x (sum of the codes) [spans][R], scale [R], and for outliers an int64 [R]:
// how many bytes behind the tile the row's list begins. List: int64 count, then pairs of an int32 input and a float32.
#pragma once

#include "linear/int8_rows.h"

namespace vivace::VIVACE_ISA {

// Unsigned codes x int8 of so many inputs fit an int32 with any offset: 65536 x 255 x 127 < 2^31.
inline constexpr int64_t SPAN_INPUTS = 65536;
inline constexpr uint32_t OUTLIER_BITS = 0x40c00000u;  // of 6.0: bits of magnitudes compare as integers
inline constexpr uint32_t INFINITY_BITS = 0x7f800000u;

struct TokenTile {
  int64_t lines;
  int64_t spans;
  int64_t rows;
  bool has_outliers;

  VIVACE_INLINE TokenTile(int64_t columns, int64_t rows, bool has_outliers)
      : lines((columns + 3) / 4), spans((columns + SPAN_INPUTS - 1) / SPAN_INPUTS), rows(rows),
        has_outliers(has_outliers) {}

  VIVACE_INLINE int64_t row_bytes() const { return lines * 4 + spans * 4 + 4 + (has_outliers ? 8 : 0); }
  VIVACE_INLINE int64_t codes_at(int64_t line, int64_t row) const { return (line * rows + row) * 4; }
  VIVACE_INLINE int64_t share_at(int64_t span, int64_t row) const { return ((lines + span) * rows + row) * 4; }
  VIVACE_INLINE int64_t scale_at(int64_t row) const { return share_at(spans, row); }
  VIVACE_INLINE int64_t list_at(int64_t row) const { return scale_at(rows) + row * 8; }
};

struct Outlier {
  int32_t input;
  float value;
};

VIVACE_INLINE int64_t outlier_list_bytes(int64_t columns) { return 8 + columns * int64_t{sizeof(Outlier)}; }

// Not of NaN, so that a row with one gives NaN.
VIVACE_INLINE bool is_outlier(float value) {
  return (bits_from_float(value) & 0x7fffffffu) - OUTLIER_BITS <= INFINITY_BITS - OUTLIER_BITS;
}

// The bits of a value, or of 0 for an outlier. GCC 12 makes vectors of this; with a choice between the two, by floats or
// by bits, a row took three times as long.
template <bool OUTLIERS>
VIVACE_INLINE uint32_t inlier_bits(float value) {
  return bits_from_float(value) & (static_cast<uint32_t>(OUTLIERS && is_outlier(value)) - 1u);
}

template <bool OUTLIERS>
VIVACE_INLINE float token_scale(const float* x, int64_t columns) {
  uint32_t largest = 0;
  for (int64_t k = 0; k < columns; ++k) {
    const uint32_t bits = inlier_bits<OUTLIERS>(x[k]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return group_scale(largest);
}

// Adding 1.5 x 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
template <bool OUTLIERS>
VIVACE_INLINE int32_t token_code(float value, float inverse) {
  const float inlier = float_from_bits(inlier_bits<OUTLIERS>(value));
  const uint32_t bits = bits_from_float(inlier * inverse + 12582912.0f);
  return static_cast<int8_t>(bits & 255u);
}

template <bool OUTLIERS>
void prepare_token_row(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile) {
  constexpr int32_t OFFSET = SIGNED_8_BIT_CODES ? 0 : 128;
  const TokenTile at(columns, tile_rows, OUTLIERS);
  const float scale = token_scale<OUTLIERS>(x, columns);
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  std::memcpy(tile + at.scale_at(row), &scale, 4);
  for (int64_t span = 0; span < at.spans; ++span) {
    const int64_t begin = span * SPAN_INPUTS;
    const int64_t end = begin + SPAN_INPUTS < columns ? begin + SPAN_INPUTS : columns;
    int32_t sum = 0;
    for (int64_t k = begin; k < end; k += 64) {
      int8_t codes[64] = {};
      const int64_t count = end - k < 64 ? end - k : 64;
      for (int64_t i = 0; i < count; ++i) {
        const int32_t code = token_code<OUTLIERS>(x[k + i], inverse);
        codes[i] = static_cast<int8_t>(code);
        sum += code;
      }
      for (int64_t i = 0; i < count; i += 4) std::memcpy(tile + at.codes_at((k + i) / 4, row), codes + i, 4);
    }
    const int32_t share = -OFFSET * sum;
    std::memcpy(tile + at.share_at(span, row), &share, 4);
  }
}

VIVACE_INLINE bool any_outlier(const float* x, int64_t count) {
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= is_outlier(x[i]) ? 1u : 0u;
  return found != 0;
}

// Writes the row's list, and into the tile where it is. 64 inputs are looked at together, as vectors, before each by
// itself: 0.2 ns an input instead of 1.2 with two outliers in a thousand.
inline void list_outliers(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile,
                          uint8_t* list) {
  int64_t count = 0;
  for (int64_t first = 0; first < columns; first += 64) {
    const int64_t end = columns - first < 64 ? columns : first + 64;
    if (!any_outlier(x + first, end - first)) continue;
    for (int64_t k = first; k < end; ++k) {
      if (!is_outlier(x[k])) continue;
      const Outlier outlier{static_cast<int32_t>(k), x[k]};
      std::memcpy(list + 8 + count++ * int64_t{sizeof outlier}, &outlier, sizeof outlier);
    }
  }
  std::memcpy(list, &count, sizeof count);
  const int64_t distance = list - tile;
  std::memcpy(tile + TokenTile(columns, tile_rows, true).list_at(row), &distance, sizeof distance);
}

}  // namespace vivace::VIVACE_ISA
