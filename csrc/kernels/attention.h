// Paged attention of one work item.
//
// A chunk's keys and values come from memory once and serve every row and query head of the item. Up to BLOCK_ROWS rows
// share each loaded vector.
#pragma once

#include "kernels/attention_channel_keys.h"
#include "kernels/attention_codes.h"
#include "kernels/attention_dense.h"
#include "kernels/attention_rows.h"
#include "kernels/attention_tree.h"

namespace vivace::VIVACE_ISA {

// Rows first .. first + NUM_ROWS over one chunk, into their states, which are reset.
template <int NUM_ROWS, class Chunk>
VIVACE_INLINE void attend_rows(const ItemRows& rows, int64_t first, int64_t start, Chunk& chunk, float* scores,
                               float* states) {
  Visible visible[NUM_ROWS];
  Visible any{ATTENTION_CHUNK, 0};
  for (int r = 0; r < NUM_ROWS; ++r) {
    const Visible one = visible[r] = visible_keys(rows, first + r, start);
    if (one.empty()) continue;
    any = {one.begin < any.begin ? one.begin : any.begin, one.end > any.end ? one.end : any.end};
  }
  if (any.empty()) return;
  chunk.template score<NUM_ROWS>(first, any, scores);
  auto* weights = chunk.weights(scores);
  float* accumulators[NUM_ROWS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    const SoftmaxState state = state_at(states, first + r, rows.problem.cache.head_dim);
    accumulators[r] = state.accumulator;
    auto* row_weights = weights + r * ATTENTION_CHUNK;
    if (visible[r].empty()) {
      std::memset(row_weights, 0, ATTENTION_CHUNK * sizeof(*row_weights));
    } else {
      weigh_row(rows.problem.softcap, visible[r], any.first_unit(), any.last_unit(), scores + r * ATTENTION_CHUNK,
                row_weights, state);
    }
  }
  chunk.template accumulate<NUM_ROWS>(first, weights, visible, any, accumulators);
}

// The last rows of an item, fewer than BLOCK_ROWS.
template <int NUM_ROWS, class Chunk>
VIVACE_INLINE void attend_rest(const ItemRows& rows, int64_t first, int64_t start, Chunk& chunk, float* scores,
                               float* states) {
  if constexpr (NUM_ROWS > 0) {
    if (rows.count - first == NUM_ROWS) return attend_rows<NUM_ROWS>(rows, first, start, chunk, scores, states);
    attend_rest<NUM_ROWS - 1>(rows, first, start, chunk, scores, states);
  }
}

template <class Chunk>
void attend_chunk(const ItemRows& rows, int64_t index, Chunk& chunk, float* scores, float* states) {
  reset_states(states, rows.count, rows.problem.cache.head_dim);
  const int64_t start = index * ATTENTION_CHUNK;
  const Visible any{visible_keys(rows, 0, start).begin, visible_keys(rows, rows.count - 1, start).end};
  if (any.empty()) return;
  chunk.begin(start, any, index + 1 < rows.item.chunk_end);
  int64_t first = 0;
  for (; first + BLOCK_ROWS <= rows.count; first += BLOCK_ROWS) {
    attend_rows<BLOCK_ROWS>(rows, first, start, chunk, scores, states);
  }
  attend_rest<BLOCK_ROWS - 1>(rows, first, start, chunk, scores, states);
}

template <class Chunk>
void attend_item(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  ItemRows rows(problem, item);
  if (is_tree_item(problem, item)) build_tree_end(problem, item, reinterpret_cast<uint8_t*>(scratch), rows.end);
  const int64_t head_dim = problem.cache.head_dim, width = attention_state_width(head_dim);
  float* scores = scratch + tree_end_floats(problem.cache);
  float* weights = scores + BLOCK_ROWS * ATTENTION_CHUNK;
  float* chunk_states = weights + BLOCK_ROWS * ATTENTION_CHUNK * weight_groups(problem.cache);
  float* states = chunk_states + rows.count * width;
  Chunk chunk(rows, states + rows.count * width, weights);
  if (item.partial) {
    attend_chunk(rows, item.chunk_begin, chunk, scores, item.partial);
    return;
  }
  reset_states(states, rows.count, head_dim);
  for (int64_t index = item.chunk_begin; index < item.chunk_end; ++index) {
    attend_chunk(rows, index, chunk, scores, chunk_states);
    for (int64_t row = 0; row < rows.count; ++row) {
      merge_state(state_at(states, row, head_dim), state_at(chunk_states, row, head_dim), head_dim);
    }
  }
  write_output(rows, states);
}

inline void attend(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  switch (problem.cache.dtype) {
    case KVDtype::F32:
      return attend_item<DenseChunk<float>>(problem, item, scratch);
    case KVDtype::BF16:
      return attend_item<DenseChunk<BFloat16>>(problem, item, scratch);
    case KVDtype::F16:
      return attend_item<DenseChunk<Float16>>(problem, item, scratch);
    case KVDtype::INT8:
      return attend_item<CodedChunk<CodedKeys<8>, 8>>(problem, item, scratch);
    case KVDtype::INT4:
      return attend_item<CodedChunk<CodedKeys<4>, 4>>(problem, item, scratch);
    case KVDtype::INT4_CHANNEL_KEYS:
      return attend_item<CodedChunk<ChannelKeys, 4>>(problem, item, scratch);
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
