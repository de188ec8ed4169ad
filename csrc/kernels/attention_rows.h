// The rows of one attention work item: what each sees, its softmax over a chunk, and the merging of chunks.
#pragma once

#include "attention.h"
#include "kernels/exponential.h"
#include "kernels/half.h"

namespace vivace::VIVACE_ISA {

// Rows x vectors of accumulators that fit the registers: 16 of 32 (AVX-512), 8 of 16 (AVX2), 8 of 16 (SSE2).
#if defined(__AVX512F__)
inline constexpr int BLOCK_ROWS = 4, BLOCK_VECTORS = 4;
#elif defined(__AVX2__)
inline constexpr int BLOCK_ROWS = 2, BLOCK_VECTORS = 2;
#else
inline constexpr int BLOCK_ROWS = 1, BLOCK_VECTORS = 2;
#endif
static_assert(BLOCK_ROWS <= MAX_BLOCK_ROWS);

inline constexpr float MINUS_INFINITY = -__builtin_inff();

// One row's state of an online softmax; attention_state_width floats.
struct SoftmaxState {
  float* accumulator;
  float* sum;
  float* maximum;
};

VIVACE_INLINE SoftmaxState state_at(float* states, int64_t index, int64_t head_dim) {
  const int64_t padded = padded_head_dim(head_dim);
  float* base = states + index * attention_state_width(head_dim);
  return {base, base + padded, base + padded + 16};
}

inline void reset_states(float* states, int64_t count, int64_t head_dim) {
  const int64_t width = attention_state_width(head_dim);
  std::memset(states, 0, static_cast<size_t>(count * width) * sizeof(float));
  for (int64_t i = 0; i < count; ++i) *state_at(states, i, head_dim).maximum = MINUS_INFINITY;
}

// Blocks of one context and kv head that stand for the table's from `first_block` on.
struct ContextEnd {
  int64_t first_block = INT64_MAX;
  KVLayer layer{};
};

// An item's rows in the order (token, query head of the group).
struct ItemRows {
  const AttentionProblem& problem;
  const AttentionItem& item;
  int64_t group;           // query heads of the kv head
  int64_t count;           // rows x group
  int64_t first_position;  // of row_begin
  ContextEnd end;          // none but for a tree row

  ItemRows(const AttentionProblem& p, const AttentionItem& i)
      : problem(p), item(i), group(p.num_heads / p.cache.num_kv_heads), count((i.row_end - i.row_begin) * group),
        first_position(p.step->context_lens[i.sequence] - p.step->query_starts[i.sequence + 1] + i.row_begin) {}

  int64_t position(int64_t index) const { return first_position + index / group; }

  int64_t first_visible(int64_t index) const {
    const int64_t start = problem.window ? position(index) - problem.window + 1 : 0;
    return start > 0 ? start : 0;
  }

  int64_t offset(int64_t index, int64_t stride) const {
    const int64_t head = item.kv_head * group + index % group;
    return (item.row_begin + index / group) * stride + head * problem.cache.head_dim;
  }

  // The sequence's block `index`.
  VIVACE_INLINE uint8_t* key_block(int64_t index) const {
    if (index >= end.first_block) return end.layer.key_block(index - end.first_block, 0);
    return problem.cache.key_block(block(index), item.kv_head);
  }

  VIVACE_INLINE uint8_t* value_block(int64_t index) const {
    if (index >= end.first_block) return end.layer.value_block(index - end.first_block, 0);
    return problem.cache.value_block(block(index), item.kv_head);
  }

  VIVACE_INLINE uint16_t* recent_keys(int64_t index) const {
    if (index >= end.first_block) return end.layer.recent_keys(index - end.first_block, 0);
    return problem.cache.recent_keys(block(index), item.kv_head);
  }

  const float* query(int64_t index) const { return problem.q + offset(index, problem.q_stride); }
  float* output(int64_t index) const { return problem.out + offset(index, problem.out_stride); }

 private:
  // The cache's block that holds the sequence's block `index`.
  int64_t block(int64_t index) const {
    const Step& step = *problem.step;
    return step.block_tables[item.sequence * step.table_width + index];
  }
};

// Numbers 0 to 15, one a lane.
VIVACE_INLINE V16 lane_numbers() {
  float numbers[16];
  for (int i = 0; i < 16; ++i) numbers[i] = static_cast<float>(i);
  return load(numbers);
}

// The part of a chunk that one row (or several) sees: keys [begin, end) of the chunk. Empty where begin >= end.
struct Visible {
  int64_t begin, end;

  VIVACE_INLINE bool empty() const { return begin >= end; }
  VIVACE_INLINE bool whole(int64_t unit) const { return begin <= KV_UNIT * unit && end >= KV_UNIT * (unit + 1); }
  VIVACE_INLINE int64_t first_unit() const { return begin / KV_UNIT; }
  VIVACE_INLINE int64_t last_unit() const { return (end + KV_UNIT - 1) / KV_UNIT; }
};

// `value` in the lanes of a unit's visible keys, `other` elsewhere.
VIVACE_INLINE V16 select_visible(Visible visible, int64_t unit, V16 value, V16 other) {
  if (visible.whole(unit)) return value;
  const V16 key = lane_numbers() + splat(static_cast<float>(KV_UNIT * unit));
  value = select(key < splat(static_cast<float>(visible.begin)), other, value);
  return select(key >= splat(static_cast<float>(visible.end)), other, value);
}

VIVACE_INLINE Visible visible_keys(const ItemRows& rows, int64_t index, int64_t chunk_start) {
  const int64_t begin = rows.first_visible(index) - chunk_start;
  const int64_t end = rows.position(index) + 1 - chunk_start;
  return {begin > 0 ? begin : 0, end < ATTENTION_CHUNK ? end : ATTENTION_CHUNK};
}

// Dimensions d .. d + 15 of a query, zeros behind its end.
VIVACE_INLINE V16 query_part(const ItemRows& rows, int64_t index, int64_t d) {
  const int64_t left = rows.problem.cache.head_dim - d;
  const float* from = rows.query(index) + d;
  return left >= 16 ? load(from) : load_first(from, left > 0 ? left : 0);
}

VIVACE_INLINE V16 rounded_weight(V16 weight, float* to) {
  store(to, weight);
  return weight;
}

VIVACE_INLINE V16 rounded_weight(V16 weight, BFloat16* to) {
#if defined(__AVX512BF16__)
  const auto bits = (__m256i)_mm512_cvtneps_pbh(weight.part[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))}};
#else
  store16(to, weight);
  return load16(to);
#endif
}

// Turns one row's scores of units [first, last) into weights exp(score - maximum), and gives the state their maximum
// and the sum of what was kept of them. The row sees at least one key.
template <class Weight>
VIVACE_INLINE void weigh_row(float softcap, Visible visible, int64_t first, int64_t last, float* scores,
                             Weight* weights, SoftmaxState state) {
  V16 largest = splat(MINUS_INFINITY);
  for (int64_t unit = first; unit < last; ++unit) {
    V16 score = load(scores + KV_UNIT * unit);
    if (softcap != 0.0f) score = hyperbolic_tangent(score / splat(softcap)) * splat(softcap);
    score = select_visible(visible, unit, score, splat(MINUS_INFINITY));
    if (softcap != 0.0f || !visible.whole(unit)) store(scores + KV_UNIT * unit, score);
    largest = maximum(largest, score);
  }
  const float top = horizontal_maximum(largest);
  V16 sum = zero();
  for (int64_t unit = first; unit < last; ++unit) {
    const V16 weight = exponential(load(scores + KV_UNIT * unit) - splat(top));
    sum = sum + rounded_weight(weight, weights + KV_UNIT * unit);
  }
  *state.maximum = top;
  store(state.sum, sum);
}

// Adds a later chunk's state to that of the chunks before it.
inline void merge_state(SoftmaxState total, SoftmaxState chunk, int64_t head_dim) {
  if (*chunk.maximum == MINUS_INFINITY) return;
  const int64_t padded = padded_head_dim(head_dim);
  if (*total.maximum == MINUS_INFINITY) {
    std::memcpy(total.accumulator, chunk.accumulator,
                static_cast<size_t>(attention_state_width(head_dim)) * sizeof(float));
    return;
  }
  const float largest = *total.maximum > *chunk.maximum ? *total.maximum : *chunk.maximum;
  const V16 old_factor = exponential(splat(*total.maximum - largest));
  const V16 new_factor = exponential(splat(*chunk.maximum - largest));
  for (int64_t d = 0; d < padded + 16; d += 16) {  // the sums lie behind the accumulator
    store(total.accumulator + d,
          multiply_add(load(chunk.accumulator + d), new_factor, load(total.accumulator + d) * old_factor));
  }
  *total.maximum = largest;
}

inline void write_output(const ItemRows& rows, float* states) {
  const int64_t head_dim = rows.problem.cache.head_dim;
  for (int64_t index = 0; index < rows.count; ++index) {
    const SoftmaxState state = state_at(states, index, head_dim);
    const V16 sum = splat(horizontal_sum(load(state.sum)));
    float* out = rows.output(index);
    int64_t d = 0;
    for (; d + 16 <= head_dim; d += 16) store(out + d, load(state.accumulator + d) / sum);
    if (d < head_dim) store_first(out + d, load(state.accumulator + d) / sum, head_dim - d);
  }
}

}  // namespace vivace::VIVACE_ISA
