// The rows of one attention work item: what each sees, its online softmax, and the merging of softmax states.
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
static_assert(ATTENTION_TILE % (16 * BLOCK_VECTORS) == 0);

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

// An item's rows in the order (token, query head of the group).
struct ItemRows {
  const AttentionProblem& problem;
  const AttentionItem& item;
  int64_t group;           // query heads of the kv head
  int64_t count;           // rows x group
  int64_t first_position;  // of row_begin

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

  // The cache's block that holds a position of the item's sequence.
  int64_t block_at(int64_t at) const {
    const Step& step = *problem.step;
    return step.block_tables[item.sequence * step.table_width + at / problem.cache.block_size];
  }

  const float* query(int64_t index) const { return problem.q + offset(index, problem.q_stride); }
  float* output(int64_t index) const { return problem.out + offset(index, problem.out_stride); }
};

// Where a tile's and the next tile's units of 16 tokens lie. Few units are asked for at a time, while others are
// computed on: a core has about 24 requests to memory in flight, and blocks that lie apart are not foreseen by hardware.
struct UnitPointers {
  const uint8_t* now[ATTENTION_UNITS];
  const uint8_t* next[ATTENTION_UNITS];
  int64_t count = 0, next_count = 0;

  // `at(position)` gives the address of a unit.
  template <class Address>
  VIVACE_INLINE void begin(int64_t start, int64_t end, Address at) {
    const auto number = [&](int64_t from) {
      const int64_t left = end > from ? (end - from + KV_UNIT - 1) / KV_UNIT : 0;
      return left < ATTENTION_UNITS ? left : ATTENTION_UNITS;
    };
    count = number(start);
    next_count = number(start + ATTENTION_TILE);
    for (int64_t unit = 0; unit < count; ++unit) now[unit] = at(start + KV_UNIT * unit);
    for (int64_t unit = 0; unit < next_count; ++unit) next[unit] = at(start + ATTENTION_TILE + KV_UNIT * unit);
  }

  // Asks for bytes [begin, end) of a unit of the next tile.
  VIVACE_INLINE void prefetch(int64_t unit, int64_t begin, int64_t end) const {
    if (unit >= next_count) return;
    for (int64_t byte = begin; byte < end; byte += 64) __builtin_prefetch(next[unit] + byte, 0, 2);
  }
};

// Numbers 0 to 15, one a lane.
VIVACE_INLINE V16 lane_numbers() {
  float numbers[16];
  for (int i = 0; i < 16; ++i) numbers[i] = static_cast<float>(i);
  return load(numbers);
}

// The part of a tile that one row sees: keys [begin, end) of the tile. Empty where begin >= end.
struct Visible {
  int64_t begin, end;
};

// `value` in the lanes of keys first .. first + 15 that are visible, `other` elsewhere.
VIVACE_INLINE V16 select_visible(Visible visible, int64_t first, V16 value, V16 other) {
  if (visible.begin <= first && visible.end >= first + KV_UNIT) return value;
  const V16 key = lane_numbers() + splat(static_cast<float>(first));
  value = select(key < splat(static_cast<float>(visible.begin)), other, value);
  return select(key >= splat(static_cast<float>(visible.end)), other, value);
}

VIVACE_INLINE Visible visible_keys(const ItemRows& rows, int64_t index, int64_t tile_start) {
  const int64_t begin = rows.first_visible(index) - tile_start;
  const int64_t end = rows.position(index) + 1 - tile_start;
  return {begin > 0 ? begin : 0, end < ATTENTION_TILE ? end : ATTENTION_TILE};
}

// Turns one row's scores into weights exp(score - maximum) and rescales its state to the new maximum.
inline void weigh_row(const AttentionProblem& problem, Visible visible, float* scores, SoftmaxState state) {
  constexpr int VECTORS = ATTENTION_TILE / 16;
  if (visible.begin >= visible.end) {
    std::memset(scores, 0, ATTENTION_TILE * sizeof(float));
    return;
  }
  V16 values[VECTORS];
  V16 largest = splat(MINUS_INFINITY);
  for (int v = 0; v < VECTORS; ++v) {
    V16 score = load(scores + 16 * v) * splat(problem.scale);
    if (problem.softcap != 0.0f) {
      score = hyperbolic_tangent(score / splat(problem.softcap)) * splat(problem.softcap);
    }
    score = select_visible(visible, 16 * v, score, splat(MINUS_INFINITY));
    values[v] = score;
    largest = maximum(largest, score);
  }
  const float old_maximum = *state.maximum;
  const float tile_maximum = horizontal_maximum(largest);
  const float new_maximum = tile_maximum > old_maximum ? tile_maximum : old_maximum;
  V16 sum = load(state.sum);
  if (new_maximum != old_maximum) {
    const V16 factor = exponential(splat(old_maximum - new_maximum));
    sum = sum * factor;
    for (int64_t d = 0; d < padded_head_dim(problem.cache.head_dim); d += 16) {
      store(state.accumulator + d, load(state.accumulator + d) * factor);
    }
    *state.maximum = new_maximum;
  }
  for (int v = 0; v < VECTORS; ++v) {
    const V16 weight = exponential(values[v] - splat(new_maximum));
    store(scores + 16 * v, weight);
    sum = sum + weight;
  }
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
