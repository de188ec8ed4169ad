// Tiles of int8 and int4 keys and values (kv_layout.h): integer products with wide codes of queries and of weights.
//
// With key = scale * code + minimum for each token and group of dimensions,
//   q . key = sum over groups of scale * (q . code) + minimum * (sum of q),
// and with value = scale * code + minimum,
//   sum of w * value = sum of (w * scale) . code + sum of w * minimum.
#pragma once

#include "kernels/attention_rows.h"
#include "kernels/wide_codes.h"

namespace vivace::VIVACE_ISA {

inline constexpr int64_t SCALE_LINE_BYTES = 4 * KV_UNIT;  // 16 scales and 16 minima

VIVACE_INLINE V16 unit_scales(const uint8_t* unit, int64_t group) {
  return load16(reinterpret_cast<const BFloat16*>(unit + group * SCALE_LINE_BYTES));
}

VIVACE_INLINE V16 unit_minima(const uint8_t* unit, int64_t group) {
  return load16(reinterpret_cast<const BFloat16*>(unit + group * SCALE_LINE_BYTES) + KV_UNIT);
}

// Calls use(line, index of its first byte) for `count` lines of codes whose neighbours are `step` indices apart; two of
// 4 bits share their bytes.
template <int BITS, class Function>
VIVACE_INLINE void for_lines(const uint8_t* codes, int64_t count, int64_t step, Function use) {
  if constexpr (BITS == 8) {
    for (int64_t line = 0; line < count; ++line) use(load_line(codes + line * LINE_BYTES), line * step);
  } else {
    for (int64_t line = 0; line < count; line += 2) {
      const Codes both = load_line(codes + line / 2 * LINE_BYTES);
      use(masked<15>(both), line * step);
      use(masked<15>(shifted<-4>(both)), (line + 1) * step);
    }
  }
}

// The item's queries as wide codes, a scale for each row and group.
template <int BITS>
class CodedQueries {
 public:
  CodedQueries(const ItemRows& rows, float* scratch)
      : dim_(coded_dim(BITS, rows.problem.cache.head_dim)), groups_(coded_groups(BITS, rows.problem.cache.head_dim)),
        scales_(scratch), sums_(scratch + rows.count * groups_),
        codes_(reinterpret_cast<uint8_t*>(sums_ + rows.count * groups_)) {
    for (int64_t index = 0; index < rows.count; ++index) {
      for (int64_t group = 0; group < groups_; ++group) encode(rows, index, group);
    }
  }

  VIVACE_INLINE WideCodes codes(int64_t index) const { return {codes_ + index * 2 * dim_, dim_}; }
  VIVACE_INLINE float scale(int64_t index, int64_t group) const { return scales_[index * groups_ + group]; }
  VIVACE_INLINE float sum(int64_t index, int64_t group) const { return sums_[index * groups_ + group]; }

 private:
  void encode(const ItemRows& rows, int64_t index, int64_t group) {
    const int64_t head_dim = rows.problem.cache.head_dim, width = dim_ / groups_;
    const int64_t begin = group * width, end = begin + width;
    const auto part = [&](int64_t d) {
      const float* from = rows.query(index) + d;
      return d + 16 <= head_dim ? load(from) : load_first(from, head_dim > d ? head_dim - d : 0);
    };
    V16 largest = zero(), broken = zero();
    for (int64_t d = begin; d < end; d += 16) {
      largest = maximum(absolute(part(d)), largest);
      broken = broken + part(d) * zero();
    }
    const float top = horizontal_maximum(largest);
    const float inverse = top > 1e-30f ? WIDE_CODE_MAXIMUM / top : 0.0f;
    V16 sum = zero();
    for (int64_t d = begin; d < end; d += 16) {
      const V16 whole = rounded(part(d) * splat(inverse));
      codes(index).put(d, whole);
      sum = sum + whole;
    }
    // Infinite and undefined queries give undefined scores.
    scales_[index * groups_ + group] = top / WIDE_CODE_MAXIMUM + horizontal_sum(broken);
    sums_[index * groups_ + group] = horizontal_sum(sum);
  }

  int64_t dim_, groups_;
  float* scales_;
  float* sums_;  // of the wide codes: exact, below 2^24
  uint8_t* codes_;
};

template <int BITS>
class CodedKeys {
 public:
  CodedKeys(const ItemRows& rows, float* scratch) : rows_(rows), queries_(rows, scratch) {}

  void begin(int64_t start, int64_t count) {
    num_units_ = (count + KV_UNIT - 1) / KV_UNIT;
    const KVLayer& cache = rows_.problem.cache;
    const int64_t bytes = unit_bytes(BITS, cache.head_dim);
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const int64_t position = start + KV_UNIT * unit;
      units_[unit] = cache.key_block(rows_.block_at(position), rows_.item.kv_head) +
                     position % cache.block_size / KV_UNIT * bytes;
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    const int64_t head_dim = rows_.problem.cache.head_dim;
    const int64_t groups = coded_groups(BITS, head_dim), width = coded_dim(BITS, head_dim) / groups;
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const uint8_t* codes = units_[unit] + groups * SCALE_LINE_BYTES;
      V16 sums[NUM_ROWS];
      for (int r = 0; r < NUM_ROWS; ++r) sums[r] = zero();
      for (int64_t group = 0; group < groups; ++group) {
        WideDot dots[NUM_ROWS];
        WideCodes queries[NUM_ROWS];
        for (int r = 0; r < NUM_ROWS; ++r) queries[r] = queries_.codes(first + r);
        for_lines<BITS>(codes, width / 4, 4, [&](Codes line, int64_t index) {
          for (int r = 0; r < NUM_ROWS; ++r) dots[r].template add<BITS>(line, queries[r], group * width + index);
        });
        codes += width * KV_UNIT * BITS / 8;
        const V16 scale = unit_scales(units_[unit], group), minimum = unit_minima(units_[unit], group);
        for (int r = 0; r < NUM_ROWS; ++r) {
          const V16 query_scale = splat(queries_.scale(first + r, group));
          const float query_sum = queries_.sum(first + r, group);
          const V16 product = multiply_add(dots[r].template total<BITS>(query_sum), scale, splat(query_sum) * minimum);
          sums[r] = multiply_add(product, query_scale, sums[r]);
        }
      }
      for (int r = 0; r < NUM_ROWS; ++r) store(scores + (first + r) * ATTENTION_TILE + KV_UNIT * unit, sums[r]);
    }
  }

 private:
  const ItemRows& rows_;
  CodedQueries<BITS> queries_;
  int64_t num_units_ = 0;
  const uint8_t* units_[ATTENTION_UNITS];
};

template <int BITS>
class CodedValues {
 public:
  explicit CodedValues(const ItemRows& rows) : rows_(rows) {}

  void begin(int64_t start, int64_t count) {
    num_units_ = (count + KV_UNIT - 1) / KV_UNIT;
    const KVLayer& cache = rows_.problem.cache;
    const int64_t bytes = unit_bytes(BITS, cache.head_dim);
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const int64_t position = start + KV_UNIT * unit;
      units_[unit] = cache.value_block(rows_.block_at(position), rows_.item.kv_head) +
                     position % cache.block_size / KV_UNIT * bytes;
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(float* const* accumulators, const float* weights, const Visible* visible) const {
    const int64_t head_dim = rows_.problem.cache.head_dim;
    const int64_t groups = coded_groups(BITS, head_dim), width = coded_dim(BITS, head_dim) / groups;
    for (int64_t group = 0; group < groups; ++group) {
      ScaledWeights scaled[NUM_ROWS];
      for (int r = 0; r < NUM_ROWS; ++r) scale_weights(weights + r * ATTENTION_TILE, visible[r], group, scaled[r]);
      for (int64_t d = group * width; d < (group + 1) * width; d += 16 * VECTORS) {
        add_products<NUM_ROWS>(accumulators, scaled, d);
      }
    }
  }

 private:
  static constexpr int VECTORS = BITS == 8 ? 1 : 2;  // of 16 dimensions that share a line's bytes

  // A row's weights x the scales of one group, as wide codes.
  struct ScaledWeights {
    alignas(64) uint8_t bytes[2 * ATTENTION_TILE];
    float scale;
    float sum;     // of the codes
    float offset;  // sum of weights x minima

    WideCodes codes() { return {bytes, ATTENTION_TILE}; }
  };

  // Invisible keys count nothing, whatever a block's former owner left in their scales.
  VIVACE_INLINE void scale_weights(const float* weights, Visible visible, int64_t group, ScaledWeights& out) const {
    V16 products[ATTENTION_UNITS];
    V16 largest = zero(), offset = zero();
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const V16 weight = load(weights + KV_UNIT * unit);
      const V16 product = weight * unit_scales(units_[unit], group);
      products[unit] = select_visible(visible, KV_UNIT * unit, product, zero());
      offset = offset + select_visible(visible, KV_UNIT * unit, weight * unit_minima(units_[unit], group), zero());
      largest = maximum(products[unit], largest);
    }
    const float top = horizontal_maximum(largest);
    const float inverse = top > 1e-30f ? WIDE_CODE_MAXIMUM / top : 0.0f;
    V16 sum = zero();
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const V16 whole = rounded(products[unit] * splat(inverse));
      out.codes().put(KV_UNIT * unit, whole);
      sum = sum + whole;
    }
    out.scale = top / WIDE_CODE_MAXIMUM;
    out.sum = horizontal_sum(sum);
    out.offset = horizontal_sum(offset);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void add_products(float* const* accumulators, ScaledWeights* scaled, int64_t d) const {
    const int64_t head_dim = rows_.problem.cache.head_dim, dim = coded_dim(BITS, head_dim);
    const int64_t lead = coded_groups(BITS, head_dim) * SCALE_LINE_BYTES + d / (16 * VECTORS) * LINE_BYTES;
    const int64_t four_tokens = dim / (16 * VECTORS) * LINE_BYTES;
    WideDot dots[VECTORS][NUM_ROWS];
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const uint8_t* codes = units_[unit] + lead;
      for (int64_t quad = 0; quad < KV_UNIT / 4; ++quad) {
        for_lines<BITS>(codes + quad * four_tokens, VECTORS, 1, [&](Codes line, int64_t vector) {
          for (int r = 0; r < NUM_ROWS; ++r) {
            dots[vector][r].template add<BITS>(line, scaled[r].codes(), KV_UNIT * unit + 4 * quad);
          }
        });
      }
    }
    for (int v = 0; v < VECTORS; ++v) {
      if (d + 16 * v >= head_dim) break;  // padding
      for (int r = 0; r < NUM_ROWS; ++r) {
        float* to = accumulators[r] + d + 16 * v;
        const V16 product = dots[v][r].template total<BITS>(scaled[r].sum);
        store(to, multiply_add(product, splat(scaled[r].scale), load(to) + splat(scaled[r].offset)));
      }
    }
  }

  const ItemRows& rows_;
  int64_t num_units_ = 0;
  const uint8_t* units_[ATTENTION_UNITS];
};

// Keys and values are coded for each token.
template <int BITS>
class CodedTile {
 public:
  CodedTile(const ItemRows& rows, float* scratch) : keys_(rows, scratch), values_(rows) {}

  void begin(int64_t start, int64_t count) {
    keys_.begin(start, count);
    values_.begin(start, count);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    keys_.template score<NUM_ROWS>(first, scores);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(float* const* accumulators, const float* weights, const Visible* visible,
                                Visible) const {
    values_.template accumulate<NUM_ROWS>(accumulators, weights, visible);
  }

 private:
  CodedKeys<BITS> keys_;
  CodedValues<BITS> values_;
};

}  // namespace vivace::VIVACE_ISA
