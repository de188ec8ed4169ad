// Paged attention of one work item.
//
// A tile reads the cache once and serves every row and query head of the item. Up to BLOCK_ROWS rows share each loaded
// vector.
#pragma once

#include "kernels/attention_channel_keys.h"
#include "kernels/attention_codes.h"
#include "kernels/attention_dense.h"
#include "kernels/attention_rows.h"

namespace vivace::VIVACE_ISA {

template <int NUM_ROWS, class Tile>
void attend_rows(const ItemRows& rows, int64_t first, int64_t tile_start, const Tile& tile, float* scores,
                 float* states) {
  Visible visible[NUM_ROWS];
  Visible any{ATTENTION_TILE, 0};
  for (int r = 0; r < NUM_ROWS; ++r) {
    const Visible one = visible[r] = visible_keys(rows, first + r, tile_start);
    if (one.begin >= one.end) continue;
    any = {one.begin < any.begin ? one.begin : any.begin, one.end > any.end ? one.end : any.end};
  }
  if (any.begin >= any.end) return;
  tile.template score<NUM_ROWS>(first, scores);
  float* accumulators[NUM_ROWS];
  for (int r = 0; r < NUM_ROWS; ++r) {
    const SoftmaxState state = state_at(states, first + r, rows.problem.cache.head_dim);
    weigh_row(rows.problem, visible[r], scores + (first + r) * ATTENTION_TILE, state);
    accumulators[r] = state.accumulator;
  }
  tile.template accumulate<NUM_ROWS>(first, accumulators, scores + first * ATTENTION_TILE, visible, any);
}

template <class Tile>
void attend_chunk(const ItemRows& rows, int64_t chunk, Tile& tile, float* scores, float* states) {
  reset_states(states, rows.count, rows.problem.cache.head_dim);
  const int64_t context_end = rows.position(rows.count - 1) + 1;
  int64_t start = chunk * ATTENTION_CHUNK;
  const int64_t first_tile = rows.first_visible(0) / ATTENTION_TILE * ATTENTION_TILE;
  if (start < first_tile) start = first_tile;
  int64_t end = (chunk + 1) * ATTENTION_CHUNK;
  if (end > context_end) end = context_end;
  for (int64_t at = start; at < end; at += ATTENTION_TILE) {
    tile.begin(at, end);
    int64_t first = 0;
    for (; first + BLOCK_ROWS <= rows.count; first += BLOCK_ROWS) {
      attend_rows<BLOCK_ROWS>(rows, first, at, tile, scores, states);
    }
    for (; first < rows.count; ++first) attend_rows<1>(rows, first, at, tile, scores, states);
  }
}

template <class Tile>
void attend_item(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  const ItemRows rows(problem, item);
  const int64_t head_dim = problem.cache.head_dim;
  float* scores = scratch;
  float* chunk_states = scores + rows.count * ATTENTION_TILE;
  float* states = chunk_states + rows.count * attention_state_width(head_dim);
  Tile tile(rows, states + rows.count * attention_state_width(head_dim));
  if (item.partial) {
    attend_chunk(rows, item.chunk_begin, tile, scores, item.partial);
    return;
  }
  reset_states(states, rows.count, head_dim);
  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    attend_chunk(rows, chunk, tile, scores, chunk_states);
    for (int64_t index = 0; index < rows.count; ++index) {
      merge_state(state_at(states, index, head_dim), state_at(chunk_states, index, head_dim), head_dim);
    }
  }
  write_output(rows, states);
}

inline void attend(const AttentionProblem& problem, const AttentionItem& item, float* scratch) {
  switch (problem.cache.dtype) {
    case KVDtype::F32:
      return attend_item<DenseTile<float>>(problem, item, scratch);
    case KVDtype::BF16:
      return attend_item<DenseTile<BFloat16>>(problem, item, scratch);
    case KVDtype::F16:
      return attend_item<DenseTile<Float16>>(problem, item, scratch);
    case KVDtype::INT8:
      return attend_item<CodedTile<CodedKeys<8>, 8>>(problem, item, scratch);
    case KVDtype::INT4:
      return attend_item<CodedTile<CodedKeys<4>, 4>>(problem, item, scratch);
    case KVDtype::INT4_CHANNEL_KEYS:
      return attend_item<CodedTile<ChannelKeys, 4>>(problem, item, scratch);
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
