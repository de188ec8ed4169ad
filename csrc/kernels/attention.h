// Paged attention of one work item, and the cache's write.
//
// A tile of keys and values is widened to float32 once and serves every row and query head of the item. Up to
// SCORE_ROWS rows share each loaded vector; every sum runs over one index in one order, so that the blocking of rows
// and columns changes no bit.
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

  const float* query(int64_t index) const { return problem.q + offset(index, problem.q_stride); }
  float* output(int64_t index) const { return problem.out + offset(index, problem.out_stride); }
};

// The part of a tile that one row sees: keys [begin, end) of the tile. Empty where begin >= end.
struct Visible {
  int64_t begin, end;
};

VIVACE_INLINE Visible visible_keys(const ItemRows& rows, int64_t index, int64_t tile_start) {
  const int64_t begin = rows.first_visible(index) - tile_start;
  const int64_t end = rows.position(index) + 1 - tile_start;
  return {begin > 0 ? begin : 0, end < ATTENTION_TILE ? end : ATTENTION_TILE};
}

// Widens keys [0, count) of the tile to keys[head_dim][64] and values[64][padded]. Positions past `count` were never
// written: their keys become 0 (the lanes are masked later) and their values are never read.
template <class Element>
void load_tile(const ItemRows& rows, int64_t tile_start, int64_t count, float* keys, float* values) {
  const KVLayer& cache = rows.problem.cache;
  const Step& step = *rows.problem.step;
  const int32_t* table = step.block_tables + rows.item.sequence * step.table_width;
  const int64_t head_dim = cache.head_dim, padded = padded_head_dim(head_dim), block_size = cache.block_size;
  const int64_t block_elements = head_dim * block_size;
  const bool whole_vectors = block_size % 16 == 0;
  for (int64_t first = 0; first < ATTENTION_TILE; first += 16) {
    if (first >= count) {
      for (int64_t d = 0; d < head_dim; ++d) store(keys + d * ATTENTION_TILE + first, zero());
    } else if (whole_vectors) {
      const int64_t position = tile_start + first;
      const int64_t block = table[position / block_size] * cache.num_kv_heads + rows.item.kv_head;
      const Element* from =
          reinterpret_cast<const Element*>(cache.keys) + block * block_elements + position % block_size;
      for (int64_t d = 0; d < head_dim; ++d) store(keys + d * ATTENTION_TILE + first, load16(from + d * block_size));
    }
  }
  for (int64_t key = 0; key < count; ++key) {
    const int64_t position = tile_start + key;
    const int64_t block = table[position / block_size] * cache.num_kv_heads + rows.item.kv_head;
    const int64_t slot = position % block_size;
    const Element* from = reinterpret_cast<const Element*>(cache.values) + block * block_elements + slot * head_dim;
    float* to = values + key * padded;
    int64_t d = 0;
    for (; d + 16 <= head_dim; d += 16) store(to + d, load16(from + d));
    for (; d < head_dim; ++d) to[d] = to_float(from[d]);
    if (!whole_vectors) {
      const Element* key_from = reinterpret_cast<const Element*>(cache.keys) + block * block_elements + slot;
      for (int64_t i = 0; i < head_dim; ++i) keys[i * ATTENTION_TILE + key] = to_float(key_from[i * block_size]);
    }
  }
}

// scores[r][key] = q_r . key for NUM_ROWS rows and all 64 keys of the tile.
template <int NUM_ROWS>
VIVACE_INLINE void score_rows(const ItemRows& rows, int64_t first, const float* keys, float* scores) {
  const int64_t head_dim = rows.problem.cache.head_dim;
  const float* queries[NUM_ROWS];
  for (int r = 0; r < NUM_ROWS; ++r) queries[r] = rows.query(first + r);
  for (int64_t start = 0; start < ATTENTION_TILE; start += 16 * BLOCK_VECTORS) {
    V16 sums[NUM_ROWS][BLOCK_VECTORS];
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int v = 0; v < BLOCK_VECTORS; ++v) sums[r][v] = zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      V16 key[BLOCK_VECTORS];
      for (int v = 0; v < BLOCK_VECTORS; ++v) key[v] = load(keys + d * ATTENTION_TILE + start + 16 * v);
      for (int r = 0; r < NUM_ROWS; ++r) {
        const V16 query = splat(queries[r][d]);
        for (int v = 0; v < BLOCK_VECTORS; ++v) sums[r][v] = multiply_add(query, key[v], sums[r][v]);
      }
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int v = 0; v < BLOCK_VECTORS; ++v) {
        store(scores + (first + r) * ATTENTION_TILE + start + 16 * v, sums[r][v]);
      }
    }
  }
}

// Turns one row's scores into weights exp(score - maximum) and rescales its state to the new maximum.
inline void weigh_row(const AttentionProblem& problem, Visible visible, float* scores, SoftmaxState state) {
  constexpr int VECTORS = ATTENTION_TILE / 16;
  if (visible.begin >= visible.end) {
    std::memset(scores, 0, ATTENTION_TILE * sizeof(float));
    return;
  }
  V16 lanes;
  float numbers[16];
  for (int i = 0; i < 16; ++i) numbers[i] = static_cast<float>(i);
  lanes = load(numbers);
  V16 values[VECTORS];
  V16 largest = splat(MINUS_INFINITY);
  for (int v = 0; v < VECTORS; ++v) {
    V16 score = load(scores + 16 * v) * splat(problem.scale);
    if (problem.softcap != 0.0f) {
      score = hyperbolic_tangent(score / splat(problem.softcap)) * splat(problem.softcap);
    }
    const V16 key = lanes + splat(static_cast<float>(16 * v));
    score = select(key < splat(static_cast<float>(visible.begin)), splat(MINUS_INFINITY), score);
    score = select(key >= splat(static_cast<float>(visible.end)), splat(MINUS_INFINITY), score);
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

// Adds weights x values over keys [keys.begin, keys.end) to NUM_VECTORS vectors of NUM_ROWS accumulators.
template <int NUM_ROWS, int NUM_VECTORS>
VIVACE_INLINE void accumulate(float* const* accumulators, const float* weights, const float* values, int64_t padded,
                              Visible keys) {
  V16 sums[NUM_ROWS][NUM_VECTORS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = load(accumulators[r] + 16 * v);
  }
  for (int64_t key = keys.begin; key < keys.end; ++key) {
    V16 value[NUM_VECTORS];
    for (int v = 0; v < NUM_VECTORS; ++v) value[v] = load(values + key * padded + 16 * v);
    for (int r = 0; r < NUM_ROWS; ++r) {
      const V16 weight = splat(weights[r * ATTENTION_TILE + key]);
      for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = multiply_add(weight, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < NUM_ROWS; ++r) {
    for (int v = 0; v < NUM_VECTORS; ++v) store(accumulators[r] + 16 * v, sums[r][v]);
  }
}

template <int NUM_ROWS>
void attend_rows(const ItemRows& rows, int64_t first, int64_t tile_start, const float* keys, const float* values,
                 float* scores, float* states) {
  const int64_t head_dim = rows.problem.cache.head_dim, padded = padded_head_dim(head_dim);
  Visible any{ATTENTION_TILE, 0};
  for (int r = 0; r < NUM_ROWS; ++r) {
    const Visible one = visible_keys(rows, first + r, tile_start);
    if (one.begin >= one.end) continue;
    any = {one.begin < any.begin ? one.begin : any.begin, one.end > any.end ? one.end : any.end};
  }
  if (any.begin >= any.end) return;
  score_rows<NUM_ROWS>(rows, first, keys, scores);
  float* accumulators[NUM_ROWS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    const SoftmaxState state = state_at(states, first + r, head_dim);
    weigh_row(rows.problem, visible_keys(rows, first + r, tile_start), scores + (first + r) * ATTENTION_TILE, state);
    accumulators[r] = state.accumulator;
  }
  const float* weights = scores + first * ATTENTION_TILE;
  int64_t d = 0;
  for (; d + 16 * BLOCK_VECTORS <= padded; d += 16 * BLOCK_VECTORS) {
    accumulate<NUM_ROWS, BLOCK_VECTORS>(accumulators, weights, values + d, padded, any);
    for (int r = 0; r < NUM_ROWS; ++r) accumulators[r] += 16 * BLOCK_VECTORS;
  }
  for (; d < padded; d += 16) {
    accumulate<NUM_ROWS, 1>(accumulators, weights, values + d, padded, any);
    for (int r = 0; r < NUM_ROWS; ++r) accumulators[r] += 16;
  }
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

template <class Element>
void attend_chunk(const ItemRows& rows, int64_t chunk, float* keys, float* values, float* scores, float* states) {
  reset_states(states, rows.count, rows.problem.cache.head_dim);
  const int64_t last = rows.count - 1;
  const int64_t context_end = rows.position(last) + 1;
  int64_t start = chunk * ATTENTION_CHUNK;
  const int64_t first_tile = rows.first_visible(0) / ATTENTION_TILE * ATTENTION_TILE;
  if (start < first_tile) start = first_tile;
  int64_t end = (chunk + 1) * ATTENTION_CHUNK;
  if (end > context_end) end = context_end;
  for (int64_t tile = start; tile < end; tile += ATTENTION_TILE) {
    const int64_t left = context_end - tile;
    load_tile<Element>(rows, tile, left < ATTENTION_TILE ? left : ATTENTION_TILE, keys, values);
    int64_t first = 0;
    for (; first + BLOCK_ROWS <= rows.count; first += BLOCK_ROWS) {
      attend_rows<BLOCK_ROWS>(rows, first, tile, keys, values, scores, states);
    }
    for (; first < rows.count; ++first) attend_rows<1>(rows, first, tile, keys, values, scores, states);
  }
}

template <class Element>
void attend_item(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  const ItemRows rows(problem, item);
  const int64_t head_dim = problem.cache.head_dim;
  float* keys = scratch;
  float* values = keys + ATTENTION_TILE * head_dim;
  float* scores = values + ATTENTION_TILE * padded_head_dim(head_dim);
  float* chunk_states = scores + rows.count * ATTENTION_TILE;
  float* states = chunk_states + rows.count * attention_state_width(head_dim);
  // Values between head_dim and its padding are read (and never kept): they must be numbers.
  std::memset(values, 0, static_cast<size_t>(ATTENTION_TILE * padded_head_dim(head_dim)) * sizeof(float));
  if (item.partial) {
    attend_chunk<Element>(rows, item.chunk_begin, keys, values, scores, item.partial);
    return;
  }
  reset_states(states, rows.count, head_dim);
  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    attend_chunk<Element>(rows, chunk, keys, values, scores, chunk_states);
    for (int64_t index = 0; index < rows.count; ++index) {
      merge_state(state_at(states, index, head_dim), state_at(chunk_states, index, head_dim), head_dim);
    }
  }
  write_output(rows, states);
}

inline void attend(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  switch (problem.cache.dtype) {
    case KVDtype::F32:
      return attend_item<float>(problem, item, scratch);
    case KVDtype::BF16:
      return attend_item<BFloat16>(problem, item, scratch);
    case KVDtype::F16:
      return attend_item<Float16>(problem, item, scratch);
  }
}

inline void merge_partials(const AttentionProblem& problem, const AttentionItem& item, int64_t num_chunks,
                           int64_t chunk_stride, float* scratch) {
  const ItemRows rows(problem, item);
  const int64_t head_dim = problem.cache.head_dim;
  reset_states(scratch, rows.count, head_dim);
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    float* states = item.partial + chunk * chunk_stride;
    for (int64_t index = 0; index < rows.count; ++index) {
      merge_state(state_at(scratch, index, head_dim), state_at(states, index, head_dim), head_dim);
    }
  }
  write_output(rows, scratch);
}

}  // namespace vivace::VIVACE_ISA
