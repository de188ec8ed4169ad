// Paged attention: the work items and the functions of one instruction set.
//
// Keys are summed in an order fixed by absolute positions alone, in chunks of 512 positions. Each chunk is a softmax of
// its own (all scores, their maximum, all weights, their sum of values) and chunks are merged in order (FlashAttention;
// Dao et al., 2022), so that a token's output is the same bits whether it is prefilled in any chunking, decoded alone
// or in a batch, and whether one thread walks its context or several share it (Flash-Decoding). A maximum a chunk
// instead of one for every 64 keys saves the horizontal operations that bound the quantised kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv_layout.h"

namespace vivace {

inline constexpr int64_t ATTENTION_CHUNK = 512;
inline constexpr int64_t CHUNK_UNITS = ATTENTION_CHUNK / KV_UNIT;
inline constexpr int64_t MAX_BLOCK_ROWS = 4;  // rows (of heads of tokens) that share each line read from the cache

// The integers of one step, as ops/backend.py describes them; already checked.
struct Step {
  int64_t num_tokens;     // T
  int64_t num_sampled;    // S
  int64_t num_sequences;  // B
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* slots;
  const int32_t* query_starts;
  const int32_t* context_lens;
  const int32_t* block_tables;
  int64_t table_width;
  const int32_t* sampled_rows;
  const int32_t* parents = nullptr;  // null: no row has one
  const float* states = nullptr;     // [T, states_width], for programs that begin with them
  int64_t states_width = 0;
};

// A token's keys and values go from one slot to another.
struct SlotMove {
  int64_t from, to;
};

// Guesses on a path, the longest that a step takes.
inline constexpr int64_t MAX_TREE_DEPTH = 32;

// Blocks that positions p .. p + MAX_TREE_DEPTH - 1 touch, wherever p is in a block.
inline int64_t tree_end_blocks(int64_t block_size) { return (MAX_TREE_DEPTH + block_size - 2) / block_size + 1; }

inline int64_t recent_head_bytes(const KVLayer& cache) {
  return cache.recent ? cache.head_dim * cache.block_size * static_cast<int64_t>(sizeof(uint16_t)) : 0;
}

// Of the private end of one row's context (kernels/attention_tree.h).
inline int64_t tree_end_bytes(const KVLayer& cache) {
  return tree_end_blocks(cache.block_size) * (cache.key_bytes + cache.value_bytes + recent_head_bytes(cache));
}

inline int64_t tree_end_floats(const KVLayer& cache) { return rounded_up(tree_end_bytes(cache), 64) / 4; }

struct AttentionProblem {
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  KVLayer cache;
  int64_t num_heads;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
  const Step* step;
};

// Rows [row_begin, row_end) of one sequence, all query heads of one kv head, positions of chunks
// [chunk_begin, chunk_end). With `partial` the chunk's state goes there (chunk_end = chunk_begin + 1) and
// `merge` finishes the work; without, the output is written.
struct AttentionItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t row_begin, row_end;
  int32_t chunk_begin, chunk_end;
  float* partial;
};

// Floats of one row's online-softmax state: [accumulator, padded to 16][sum, 16 lanes][maximum, padded to 16].
inline int64_t padded_head_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
inline int64_t attention_state_width(int64_t head_dim) { return padded_head_dim(head_dim) + 32; }

// Scales that a row's weights take, each for a group of the values' dimensions.
static inline int64_t weight_groups(const KVLayer& cache) {
  return is_coded(cache.dtype) ? coded_groups(code_bits(cache.dtype), cache.head_dim) : 1;
}

// Floats of scratch that one thread needs for items of at most `num_rows` (rows x query heads of a kv head): scores and
// weights of a block of rows; the rows' states and queries; a chunk of keys and values where they must be
// regrouped; the end of a context.
inline int64_t attention_scratch_floats(const KVLayer& cache, int64_t num_rows) {
  const int64_t padded = rounded_up(cache.head_dim, INT4_GROUP), groups = weight_groups(cache);
  const int64_t regrouped = is_coded(cache.dtype) ? 0 : 2 * ATTENTION_CHUNK * padded;
  return tree_end_floats(cache) + MAX_BLOCK_ROWS * ATTENTION_CHUNK * (1 + groups) +
         num_rows * (2 * attention_state_width(cache.head_dim) + padded + 2 * groups + 16) + regrouped;
}

struct AttentionKernels {
  void (*attend)(const AttentionProblem& problem, const AttentionItem& item, float* scratch);

  // Merges the states of `num_chunks` partial items that differ only in their chunk, chunk_stride floats apart from
  // item.partial on, and writes the output.
  void (*merge)(const AttentionProblem& problem, const AttentionItem& item, int64_t num_chunks, int64_t chunk_stride,
                float* scratch);

  // Writes rows [row_begin, row_end) of k and v to their slots.
  void (*write)(const KVLayer& cache, const int32_t* slots, const float* k, int64_t k_stride, const float* v,
                int64_t v_stride, int64_t row_begin, int64_t row_end);

  // Copies tokens' keys and values to other slots, in order.
  void (*move)(const KVLayer& cache, const SlotMove* moves, int64_t count);

  // Codes the keys of blocks that rows [row_begin, row_end) filled; after every row's write. Only INT4_CHANNEL_KEYS.
  void (*fill)(const KVLayer& cache, const int32_t* slots, int64_t row_begin, int64_t row_end);
};

}  // namespace vivace
