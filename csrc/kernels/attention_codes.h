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

inline constexpr int CODES_A_BYTE[] = {0, 0, 0, 0, 2, 0, 0, 0, 1};

// Code PART of each byte of a line.
template <int BITS, int PART>
VIVACE_INLINE Codes unpacked(Codes bytes) {
  if constexpr (BITS == 8) return bytes;
  return masked<15>(shifted<-4 * PART>(bytes));
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

  void begin(int64_t start, int64_t end) {
    const KVLayer& cache = rows_.problem.cache;
    bytes_ = unit_bytes(BITS, cache.head_dim);
    units_.begin(start, end, [&](int64_t position) {
      return cache.key_block(rows_.block_at(position), rows_.item.kv_head) +
             position % cache.block_size / KV_UNIT * bytes_;
    });
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    const int64_t head_dim = rows_.problem.cache.head_dim;
    const int64_t groups = coded_groups(BITS, head_dim), width = coded_dim(BITS, head_dim) / groups;
    for (int64_t unit = 0; unit < units_.count; ++unit) {
      if (first == 0) units_.prefetch(unit, 0, bytes_);
      const uint8_t* codes = units_.now[unit] + groups * SCALE_LINE_BYTES;
      V16 sums[NUM_ROWS];
      for (int r = 0; r < NUM_ROWS; ++r) sums[r] = zero();
      for (int64_t group = 0; group < groups; ++group) {
        WideDot dots[NUM_ROWS];
        WideCodes queries[NUM_ROWS];
        for (int r = 0; r < NUM_ROWS; ++r) queries[r] = queries_.codes(first + r);
        for (int64_t d = 0; d < width; d += 4 * CODES_A_BYTE[BITS]) {
          const Codes bytes = load_line(codes + d / (4 * CODES_A_BYTE[BITS]) * LINE_BYTES);
          for (int r = 0; r < NUM_ROWS; ++r) {
            dots[r].template add<BITS>(unpacked<BITS, 0>(bytes), queries[r], group * width + d);
          }
          if constexpr (BITS == 8) continue;
          for (int r = 0; r < NUM_ROWS; ++r) {
            dots[r].template add<BITS>(unpacked<BITS, 1>(bytes), queries[r], group * width + d + 4);
          }
        }
        codes += width * KV_UNIT * BITS / 8;
        const V16 scale = unit_scales(units_.now[unit], group), minimum = unit_minima(units_.now[unit], group);
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
  int64_t bytes_ = 0;  // of a unit
  UnitPointers units_;
};

template <int BITS>
class CodedValues {
 public:
  explicit CodedValues(const ItemRows& rows) : rows_(rows) {}

  void begin(int64_t start, int64_t end) {
    const KVLayer& cache = rows_.problem.cache;
    bytes_ = unit_bytes(BITS, cache.head_dim);
    units_.begin(start, end, [&](int64_t position) {
      return cache.value_block(rows_.block_at(position), rows_.item.kv_head) +
             position % cache.block_size / KV_UNIT * bytes_;
    });
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(int64_t first, float* const* accumulators, const float* weights,
                                const Visible* visible) const {
    const int64_t head_dim = rows_.problem.cache.head_dim;
    const int64_t groups = coded_groups(BITS, head_dim), width = coded_dim(BITS, head_dim) / groups;
    for (int64_t group = 0; group < groups; ++group) {
      ScaledWeights scaled[NUM_ROWS];
      for (int r = 0; r < NUM_ROWS; ++r) scale_weights(weights + r * ATTENTION_TILE, visible[r], group, scaled[r]);
      for (int64_t d = group * width; d < (group + 1) * width; d += 16 * VECTORS) {
        if (first == 0) prefetch(d / (16 * VECTORS));
        add_products<NUM_ROWS>(accumulators, scaled, d);
      }
    }
  }

 private:
  static constexpr int VECTORS = CODES_A_BYTE[BITS];  // of 16 dimensions that share a line's bytes

  // Step `step` of those that cover the dimensions asks for as large a part of each unit.
  VIVACE_INLINE void prefetch(int64_t step) const {
    const int64_t steps = coded_dim(BITS, rows_.problem.cache.head_dim) / (16 * VECTORS), lines = bytes_ / LINE_BYTES;
    for (int64_t unit = 0; unit < units_.next_count; ++unit) {
      units_.prefetch(unit, lines * step / steps * LINE_BYTES, lines * (step + 1) / steps * LINE_BYTES);
    }
  }

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
    for (int64_t unit = 0; unit < units_.count; ++unit) {
      const V16 weight = load(weights + KV_UNIT * unit);
      const V16 product = weight * unit_scales(units_.now[unit], group);
      products[unit] = select_visible(visible, KV_UNIT * unit, product, zero());
      offset = offset + select_visible(visible, KV_UNIT * unit, weight * unit_minima(units_.now[unit], group), zero());
      largest = maximum(products[unit], largest);
    }
    const float top = horizontal_maximum(largest);
    const float inverse = top > 1e-30f ? WIDE_CODE_MAXIMUM / top : 0.0f;
    V16 sum = zero();
    for (int64_t unit = 0; unit < units_.count; ++unit) {
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
    for (int64_t unit = 0; unit < units_.count; ++unit) {
      const uint8_t* codes = units_.now[unit] + lead;
      for (int64_t quad = 0; quad < KV_UNIT / 4; ++quad) {
        const Codes bytes = load_line(codes + quad * four_tokens);
        for (int r = 0; r < NUM_ROWS; ++r) {
          const int64_t index = KV_UNIT * unit + 4 * quad;
          dots[0][r].template add<BITS>(unpacked<BITS, 0>(bytes), scaled[r].codes(), index);
          if constexpr (VECTORS == 2) {
            dots[1][r].template add<BITS>(unpacked<BITS, 1>(bytes), scaled[r].codes(), index);
          }
        }
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
  int64_t bytes_ = 0;  // of a unit
  UnitPointers units_;
};

// Keys in any form with values coded for each token.
template <class Keys, int BITS>
class CodedTile {
 public:
  CodedTile(const ItemRows& rows, float* scratch) : keys_(rows, scratch), values_(rows) {}

  void begin(int64_t start, int64_t end) {
    keys_.begin(start, end);
    values_.begin(start, end);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    keys_.template score<NUM_ROWS>(first, scores);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(int64_t first, float* const* accumulators, const float* weights,
                                const Visible* visible, Visible) const {
    values_.template accumulate<NUM_ROWS>(first, accumulators, weights, visible);
  }

 private:
  Keys keys_;
  CodedValues<BITS> values_;
};

}  // namespace vivace::VIVACE_ISA
