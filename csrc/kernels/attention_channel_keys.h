// Int4 keys coded per channel (kv_layout.h).
//
// A query reads the blocks before its own as codes and its own block, complete or not, as the float16 originals. The
// rule knows positions only: how the tokens came (in what chunks, beside whom, from a shared prefix, after a rejected
// draft) does not show.
//
// With key_d = scale_d * code + minimum_d over a block, q . key = (q x scales) . code + q . minima: the query takes the
// block's scales before it becomes words. Words are relative to (largest |q|) x (largest scale), not to the largest
// product: that one bound serves all rows costs a bit or two of 15, a search for each row and block cost a quarter of
// the kernel's time.
#pragma once

#include "kernels/attention_codes.h"

namespace vivace::VIVACE_ISA {

class ChannelKeys {
 public:
  // scratch: [rows] the largest |q|, then [rows][dim] the queries x the problem's scale.
  ChannelKeys(const ItemRows& rows, float* scratch)
      : rows_(rows), dim_(coded_dim(4, rows.problem.cache.head_dim)), largest_(scratch),
        queries_(scratch + rounded_up(rows.count, 16)) {
    const V16 factor = splat(rows.problem.scale);
    for (int64_t index = 0; index < rows.count; ++index) {
      V16 largest = zero();
      for (int64_t d = 0; d < dim_; d += 16) {
        const V16 part = query_part(rows, index, d) * factor;
        largest = maximum(absolute(part), largest);
        store(queries_ + index * dim_ + d, part);
      }
      largest_[index] = horizontal_maximum(largest);
    }
  }

  VIVACE_INLINE int64_t unit_offset(int64_t slot) const { return dim_ * (4 + slot / 2); }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, const ChunkUnits& units, Visible any, float* scores) const {
    int64_t own[NUM_ROWS];
    bool same = true;
    for (int r = 0; r < NUM_ROWS; ++r) {
      own[r] = rows_.position(first + r) / rows_.problem.cache.block_size;
      same = same && own[r] == own[0];
    }
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      if (first == 0) prefetch(units.after_keys(unit) - 4 * dim_, 12 * dim_);
      float* to = scores + KV_UNIT * unit;
      if (same && units.blocks[unit] == own[0]) {
        score_recent<NUM_ROWS>(first, units, unit, to);
        continue;
      }
      score_codes<NUM_ROWS>(first, units, unit, to);
      for (int r = 0; r < NUM_ROWS; ++r) {
        if (units.blocks[unit] == own[r]) score_recent<1>(first + r, units, unit, to + r * ATTENTION_CHUNK);
      }
    }
  }

 private:
  VIVACE_INLINE const float* query(int64_t index) const { return queries_ + index * dim_; }

  template <int NUM_ROWS>
  VIVACE_INLINE void score_recent(int64_t first, const ChunkUnits& units, int64_t unit, float* scores) const {
    const KVLayer& cache = rows_.problem.cache;
    const auto* keys = reinterpret_cast<const Float16*>(rows_.recent_keys(units.blocks[unit])) + units.slots[unit];
    V16 sums[NUM_ROWS];
    for (int r = 0; r < NUM_ROWS; ++r) sums[r] = zero();
    for (int64_t d = 0; d < cache.head_dim; ++d) {
      const V16 key = load16(keys + d * cache.block_size);
      for (int r = 0; r < NUM_ROWS; ++r) sums[r] = multiply_add(splat(query(first + r)[d]), key, sums[r]);
    }
    for (int r = 0; r < NUM_ROWS; ++r) store(scores + r * ATTENTION_CHUNK, sums[r]);
  }

  // The block's scales over the largest, x the words' maximum over each row's largest |q|: gives words of queries.
  template <int NUM_ROWS>
  VIVACE_INLINE void score_codes(int64_t first, const ChunkUnits& units, int64_t unit, float* scores) const {
    const uint8_t* codes = units.keys[unit];
    const auto* scales = reinterpret_cast<const BFloat16*>(codes - unit_offset(units.slots[unit]));
    V16 largest = zero();
    for (int64_t d = 0; d < dim_; d += 16) largest = maximum(load16(scales + d), largest);
    const float top = horizontal_maximum(largest);
    alignas(64) int16_t words[NUM_ROWS][MAX_CODED_DIM];
    V16 offsets[NUM_ROWS], inverses[NUM_ROWS];
    for (int r = 0; r < NUM_ROWS; ++r) {
      const float bound = top * largest_[first + r];
      inverses[r] = splat(bound > 1e-30f ? WORD_MAXIMUM<4> / bound : 0.0f);
      offsets[r] = zero();
    }
    for (int64_t d = 0; d < dim_; d += 16) {
      const V16 scale = load16(scales + d), minimum = load16(scales + dim_ + d);
      for (int r = 0; r < NUM_ROWS; ++r) {
        const V16 part = load(query(first + r) + d);
        store_rounded_words(words[r] + d, part * scale, inverses[r]);
        offsets[r] = multiply_add(part, minimum, offsets[r]);
      }
    }
    I16 dots[NUM_ROWS][2] = {};
    for (int64_t d = 0; d < dim_; d += 8, codes += LINE_BYTES) {
      Codes pairs[PAIRS<4>];
      split_line<4, 0>(load_line(codes), pairs);
      for (int r = 0; r < NUM_ROWS; ++r) add_line<4>(dots[r], pairs, words[r] + d);
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      const float step = top * largest_[first + r] / WORD_MAXIMUM<4>;
      store(scores + r * ATTENTION_CHUNK,
            multiply_add(to_float(dots[r][0] + dots[r][1]), splat(step), splat(horizontal_sum(offsets[r]))));
    }
  }

  const ItemRows& rows_;
  int64_t dim_;
  float* largest_;
  float* queries_;
};

}  // namespace vivace::VIVACE_ISA
