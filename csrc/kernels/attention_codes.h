// Chunks of int8 and int4 keys and values (kv_layout.h): integer products with queries and weights as 16-bit words.
//
// With key = scale * code + minimum for each token and group of dimensions,
//   q . key = sum over groups of scale * (q . code) + minimum * (sum of q),
// and with value = scale * code + minimum,
//   sum of w * value = sum of (w * scale) . code + sum of w * minimum.
#pragma once

#include "kernels/attention_units.h"
#include "kernels/word_codes.h"

namespace vivace::VIVACE_ISA {

inline constexpr int64_t SCALE_LINE_BYTES = 4 * KV_UNIT;  // 16 scales and 16 minima

VIVACE_INLINE V16 unit_scales(const uint8_t* unit, int64_t group) {
  return load16(reinterpret_cast<const BFloat16*>(unit + group * SCALE_LINE_BYTES));
}

VIVACE_INLINE V16 unit_minima(const uint8_t* unit, int64_t group) {
  return load16(reinterpret_cast<const BFloat16*>(unit + group * SCALE_LINE_BYTES) + KV_UNIT);
}

// The item's queries x the problem's scale as words, with a scale for each row and group.
template <int BITS>
class CodedQueries {
 public:
  CodedQueries(const ItemRows& rows, float* scratch)
      : dim_(coded_dim(BITS, rows.problem.cache.head_dim)), groups_(coded_groups(BITS, rows.problem.cache.head_dim)),
        words_(reinterpret_cast<int16_t*>(scratch)), scales_(scratch + rows.count * dim_ / 2),
        sums_(scales_ + rows.count * groups_) {
    for (int64_t index = 0; index < rows.count; ++index) {
      for (int64_t group = 0; group < groups_; ++group) encode(rows, index, group);
    }
  }

  VIVACE_INLINE const int16_t* words(int64_t index) const { return words_ + index * dim_; }
  VIVACE_INLINE float scale(int64_t index, int64_t group) const { return scales_[index * groups_ + group]; }
  VIVACE_INLINE float sum(int64_t index, int64_t group) const { return sums_[index * groups_ + group]; }

 private:
  void encode(const ItemRows& rows, int64_t index, int64_t group) {
    const int64_t width = dim_ / groups_, begin = group * width, end = begin + width;
    const V16 factor = splat(rows.problem.scale);
    V16 largest = zero(), broken = zero();
    for (int64_t d = begin; d < end; d += 16) {
      const V16 part = query_part(rows, index, d) * factor;
      largest = maximum(absolute(part), largest);
      broken = broken + part * zero();
    }
    const float top = horizontal_maximum(largest);
    const V16 inverse = splat(top > 1e-30f ? WORD_MAXIMUM<BITS> / top : 0.0f);
    V16 sum = zero();
    for (int64_t d = begin; d < end; d += 16) {
      const I16 whole = integers(query_part(rows, index, d) * factor * inverse);
      store_words(words_ + index * dim_ + d, whole);
      sum = sum + to_float(whole);
    }
    // Infinite and undefined queries give undefined scores.
    const float scale = top / WORD_MAXIMUM<BITS> + horizontal_sum(broken);
    scales_[index * groups_ + group] = scale;
    sums_[index * groups_ + group] = horizontal_sum(sum) * scale;
  }

  int64_t dim_, groups_;
  int16_t* words_;
  float* scales_;
  float* sums_;  // of the words x their scale
};

// Adds a line's products with one row's words, from the line's first dimension or token on.
template <int BITS>
VIVACE_INLINE void add_line(I16 (&dots)[2], const Codes (&pairs)[PAIRS<BITS>], const int16_t* words) {
  for (int p = 0; p < PAIRS<BITS>; ++p) dots[p % 2] = dot2(dots[p % 2], pairs[p], load_pair(words + 2 * p));
}

template <int BITS, int FIRST, int COUNT>
VIVACE_INLINE void split_line(Codes line, Codes (&pairs)[COUNT]) {
  const auto split = [&]<int P>(const auto& self) {
    pairs[P] = pair_of_line<BITS, FIRST + P>(line);
    if constexpr (P + 1 < COUNT) self.template operator()<P + 1>(self);
  };
  split.template operator()<0>(split);
}

// Keys coded for each token.
template <int BITS>
class CodedKeys {
 public:
  CodedKeys(const ItemRows& rows, float* scratch) : head_dim_(rows.problem.cache.head_dim), queries_(rows, scratch) {}

  VIVACE_INLINE int64_t unit_offset(int64_t slot) const { return slot / KV_UNIT * unit_bytes(BITS, head_dim_); }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, const ChunkUnits& units, Visible any, float* scores) const {
    const int64_t groups = coded_groups(BITS, head_dim_), width = coded_dim(BITS, head_dim_) / groups;
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      if (first == 0) prefetch(units.after_keys(unit), unit_bytes(BITS, head_dim_));
      const uint8_t* codes = units.keys[unit] + groups * SCALE_LINE_BYTES;
      V16 sums[NUM_ROWS];
      for (int r = 0; r < NUM_ROWS; ++r) sums[r] = zero();
      for (int64_t group = 0; group < groups; ++group) {
        I16 dots[NUM_ROWS][2] = {};
        for (int64_t d = group * width; d < (group + 1) * width; d += 2 * PAIRS<BITS>) {
          Codes pairs[PAIRS<BITS>];
          split_line<BITS, 0>(load_line(codes), pairs);
          for (int r = 0; r < NUM_ROWS; ++r) add_line<BITS>(dots[r], pairs, queries_.words(first + r) + d);
          codes += LINE_BYTES;
        }
        const V16 scale = unit_scales(units.keys[unit], group), minimum = unit_minima(units.keys[unit], group);
        for (int r = 0; r < NUM_ROWS; ++r) {
          const V16 product = to_float(dots[r][0] + dots[r][1]) * scale;
          sums[r] = multiply_add(minimum, splat(queries_.sum(first + r, group)), sums[r]);
          sums[r] = multiply_add(product, splat(queries_.scale(first + r, group)), sums[r]);
        }
      }
      for (int r = 0; r < NUM_ROWS; ++r) store(scores + r * ATTENTION_CHUNK + KV_UNIT * unit, sums[r]);
    }
  }

 private:
  int64_t head_dim_;
  CodedQueries<BITS> queries_;
};

template <int BITS>
class CodedValues {
 public:
  CodedValues(const ItemRows& rows, int16_t* words)
      : head_dim_(rows.problem.cache.head_dim), groups_(coded_groups(BITS, head_dim_)), words_(words) {}

  VIVACE_INLINE int64_t unit_offset(int64_t slot) const { return slot / KV_UNIT * unit_bytes(BITS, head_dim_); }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(bool is_first, const ChunkUnits& units, const float* weights, const Visible* visible,
                                Visible any, float* const* accumulators) {
    const int64_t lines = coded_dim(BITS, head_dim_) / (16 * VECTORS);
    ScaledWeights scaled[NUM_ROWS][MAX_GROUPS] = {};
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int64_t group = 0; group < groups_; ++group) {
        scaled[r][group] = scale_weights(units, weights + r * ATTENTION_CHUNK, visible[r], any, group,
                                         words_ + (group * NUM_ROWS + r) * ATTENTION_CHUNK);
      }
    }
    int64_t line = 0;
    for (; line + BLOCK_LINES <= lines; line += BLOCK_LINES) {
      add_lines<NUM_ROWS, BLOCK_LINES>(is_first, units, any, scaled, line, accumulators);
    }
    for (; line < lines; ++line) add_lines<NUM_ROWS, 1>(is_first, units, any, scaled, line, accumulators);
  }

 private:
  static constexpr int VECTORS = 8 / BITS;  // of 16 dimensions that share a line's bytes
  static constexpr int BLOCK_LINES = BLOCK_VECTORS / VECTORS;
  static constexpr int64_t MAX_GROUPS = BITS == 8 ? 1 : MAX_CODED_DIM / INT4_GROUP;

  // A row's weights x the scales of one group: sum of words . code * scale + offset.
  struct ScaledWeights {
    float scale;
    float offset;  // sum of weights x minima
  };

  // Invisible keys count nothing, whatever a block's former owner left in their scales.
  VIVACE_INLINE ScaledWeights scale_weights(const ChunkUnits& units, const float* weights, Visible visible,
                                            Visible any, int64_t group, int16_t* words) const {
    alignas(64) float products[ATTENTION_CHUNK];
    V16 largest = zero(), offset = zero();
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      const V16 weight = load(weights + KV_UNIT * unit);
      const V16 minimum = select_visible(visible, unit, unit_minima(units.values[unit], group), zero());
      const V16 product =
          select_visible(visible, unit, weight * unit_scales(units.values[unit], group), zero());
      store(products + KV_UNIT * unit, product);
      offset = multiply_add(weight, minimum, offset);
      largest = maximum(product, largest);
    }
    const float top = horizontal_maximum(largest);
    const V16 inverse = splat(top > 1e-30f ? WORD_MAXIMUM<BITS> / top : 0.0f);
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      store_words(words + KV_UNIT * unit, integers(load(products + KV_UNIT * unit) * inverse));
    }
    return {top / WORD_MAXIMUM<BITS>, horizontal_sum(offset)};
  }

  // Lines hold the same dimensions of the next four tokens: each unit is read in its order once.
  template <int NUM_ROWS, int LINES>
  VIVACE_INLINE void add_lines(bool is_first, const ChunkUnits& units, Visible any,
                               const ScaledWeights (&scaled)[NUM_ROWS][MAX_GROUPS], int64_t line,
                               float* const* accumulators) const {
    const int64_t lead = groups_ * SCALE_LINE_BYTES + line * LINE_BYTES;
    const int64_t four_tokens = coded_dim(BITS, head_dim_) / (16 * VECTORS) * LINE_BYTES;
    const int16_t* words[LINES];
    for (int l = 0; l < LINES; ++l) words[l] = words_ + (BITS == 8 ? 0 : line + l) * NUM_ROWS * ATTENTION_CHUNK;
    I16 dots[LINES][VECTORS][NUM_ROWS] = {};
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      if (is_first && line == 0) prefetch(units.after_values(unit), unit_bytes(BITS, head_dim_));
      const uint8_t* codes = units.values[unit] + lead;
      for (int64_t token = KV_UNIT * unit; token < KV_UNIT * (unit + 1); token += 4, codes += four_tokens) {
        for (int l = 0; l < LINES; ++l) {
          add_four_tokens<NUM_ROWS>(load_line(codes + l * LINE_BYTES), words[l] + token, dots[l]);
        }
      }
    }
    for (int l = 0; l < LINES; ++l) {
      const int64_t d = (line + l) * 16 * VECTORS, group = BITS == 8 ? 0 : line + l;
      for (int v = 0; v < VECTORS; ++v) {
        if (d + 16 * v >= head_dim_) break;  // padding
        for (int r = 0; r < NUM_ROWS; ++r) {
          store(accumulators[r] + d + 16 * v, multiply_add(to_float(dots[l][v][r]), splat(scaled[r][group].scale),
                                                           splat(scaled[r][group].offset)));
        }
      }
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE static void add_four_tokens(Codes line, const int16_t* words, I16 (&dots)[VECTORS][NUM_ROWS]) {
    Codes lower[2], upper[2];
    split_line<BITS, 0>(line, lower);
    if constexpr (VECTORS == 2) split_line<BITS, 2>(line, upper);
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int p = 0; p < 2; ++p) {
        const int32_t two = load_pair(words + r * ATTENTION_CHUNK + 2 * p);
        dots[0][r] = dot2(dots[0][r], lower[p], two);
        if constexpr (VECTORS == 2) dots[1][r] = dot2(dots[1][r], upper[p], two);
      }
    }
  }

  int64_t head_dim_, groups_;
  int16_t* words_;  // [groups][rows of a block][ATTENTION_CHUNK]
};

// Keys in any form with values coded for each token.
template <class Keys, int BITS>
class CodedChunk {
 public:
  using Weight = float;

  CodedChunk(const ItemRows& rows, float* scratch, float* weights)
      : rows_(rows), keys_(rows, scratch), values_(rows, reinterpret_cast<int16_t*>(weights)) {}

  void begin(int64_t start, Visible any, bool has_next) {
    units_.locate(
        rows_, start, any, has_next, [&](uint8_t* block, int64_t slot) { return block + keys_.unit_offset(slot); },
        [&](uint8_t* block, int64_t slot) { return block + values_.unit_offset(slot); });
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, Visible any, float* scores) const {
    keys_.template score<NUM_ROWS>(first, units_, any, scores);
  }

  // The weights stay where the scores were.
  VIVACE_INLINE float* weights(float* scores) const { return scores; }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(int64_t first, const float* weights, const Visible* visible, Visible any,
                                float* const* accumulators) {
    values_.template accumulate<NUM_ROWS>(first == 0, units_, weights, visible, any, accumulators);
  }

 private:
  const ItemRows& rows_;
  ChunkUnits units_;
  Keys keys_;
  CodedValues<BITS> values_;
};

}  // namespace vivace::VIVACE_ISA
