// Tiles of int4 keys coded per channel and int4 values coded per token (kv_layout.h).
//
// A query reads the blocks before its own as codes and its own block, complete or not, as the float16 originals. The
// rule knows positions only: how the tokens came (in what chunks, beside whom, from a shared prefix, after a rejected
// draft) does not show.
//
// With key_d = scale_d * code + minimum_d over a block, q . key = (q x scales) . code + q . minima: the query takes the
// block's scales before it becomes wide codes.
#pragma once

#include "kernels/attention_codes.h"
#include "kernels/attention_dense.h"

namespace vivace::VIVACE_ISA {

class ChannelKeys {
 public:
  ChannelKeys(const ItemRows& rows, float*) : rows_(rows), dim_(coded_dim(4, rows.problem.cache.head_dim)) {}

  void begin(int64_t start, int64_t end) {
    const KVLayer& cache = rows_.problem.cache;
    units_.begin(start, end, [&](int64_t position) {
      return cache.key_block(rows_.block_at(position), rows_.item.kv_head) +
             dim_ * (4 + position % cache.block_size / 2);
    });
    recent_.block_size = cache.block_size;
    for (int64_t unit = 0; unit < units_.count; ++unit) {
      const int64_t position = start + KV_UNIT * unit, slot = position % cache.block_size;
      const int64_t block = rows_.block_at(position);
      blocks_[unit] = position / cache.block_size;
      scales_[unit] = reinterpret_cast<const BFloat16*>(units_.now[unit] - dim_ * (4 + slot / 2));
      if (cache.recent_slots[block] < 0) continue;
      recent_.units[unit] = reinterpret_cast<const Float16*>(cache.recent_keys(block, rows_.item.kv_head)) + slot;
      recent_.next[unit] = recent_.units[unit];
    }
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    int64_t own[NUM_ROWS];
    bool same = true;
    for (int r = 0; r < NUM_ROWS; ++r) {
      own[r] = rows_.position(first + r) / rows_.problem.cache.block_size;
      same = same && own[r] == own[0];
    }
    for (int64_t unit = 0; unit < units_.count; ++unit) {
      if (first == 0) units_.prefetch(unit, -4 * dim_, 8 * dim_);
      if (same && blocks_[unit] == own[0]) {
        score_units<NUM_ROWS, 1>(rows_, first, recent_, unit, scores);
        continue;
      }
      score_codes<NUM_ROWS>(first, unit, scores);
      for (int r = 0; r < NUM_ROWS; ++r) {
        if (blocks_[unit] == own[r]) score_units<1, 1>(rows_, first + r, recent_, unit, scores);
      }
    }
  }

 private:
  // A query x a block's scales.
  struct ScaledQuery {
    alignas(64) uint8_t bytes[2 * MAX_CODED_DIM];
    float scale;
    float offset;  // query . minima

    WideCodes codes(int64_t dim) { return {bytes, dim}; }
  };

  VIVACE_INLINE V16 query_part(int64_t index, int64_t d) const {
    const int64_t head_dim = rows_.problem.cache.head_dim;
    const float* from = rows_.query(index) + d;
    return d + 16 <= head_dim ? load(from) : load_first(from, head_dim > d ? head_dim - d : 0);
  }

  VIVACE_INLINE void scale_query(int64_t index, int64_t unit, ScaledQuery& out) const {
    V16 largest = zero(), offset = zero();
    for (int64_t d = 0; d < dim_; d += 16) {
      const V16 query = query_part(index, d);
      largest = maximum(absolute(query * load16(scales_[unit] + d)), largest);
      offset = multiply_add(query, load16(scales_[unit] + dim_ + d), offset);
    }
    const float top = horizontal_maximum(largest);
    const V16 inverse = splat(top > 1e-30f ? WIDE_CODE_MAXIMUM / top : 0.0f);
    for (int64_t d = 0; d < dim_; d += 16) {
      out.codes(dim_).put(d, rounded(query_part(index, d) * load16(scales_[unit] + d) * inverse));
    }
    out.scale = top / WIDE_CODE_MAXIMUM;
    out.offset = horizontal_sum(offset);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score_codes(int64_t first, int64_t unit, float* scores) const {
    ScaledQuery queries[NUM_ROWS];
    WideDot dots[NUM_ROWS];
    for (int r = 0; r < NUM_ROWS; ++r) scale_query(first + r, unit, queries[r]);
    for (int64_t d = 0; d < dim_; d += 8) {
      const Codes bytes = load_line(units_.now[unit] + d / 8 * LINE_BYTES);
      for (int r = 0; r < NUM_ROWS; ++r) dots[r].template add<4>(unpacked<4, 0>(bytes), queries[r].codes(dim_), d);
      for (int r = 0; r < NUM_ROWS; ++r) dots[r].template add<4>(unpacked<4, 1>(bytes), queries[r].codes(dim_), d + 4);
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      store(scores + (first + r) * ATTENTION_TILE + KV_UNIT * unit,
            multiply_add(dots[r].template total<4>(0.0f), splat(queries[r].scale), splat(queries[r].offset)));
    }
  }

  const ItemRows& rows_;
  int64_t dim_;
  UnitPointers units_;
  UnitKeys<Float16> recent_{};
  const BFloat16* scales_[ATTENTION_UNITS];  // of the unit's block; the minima follow
  int64_t blocks_[ATTENTION_UNITS];          // of the sequence
};

}  // namespace vivace::VIVACE_ISA
