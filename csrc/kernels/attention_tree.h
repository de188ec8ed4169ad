// The end of a tree row's context (Step::parents), laid out as if its guesses were the sequence's own tokens.
//
// A guess with siblings is written to a slot behind them, but attends to its own ancestors alone. What the row sees from
// the block of its first such ancestor on is therefore copied to blocks of its own, each token at the place that it has
// when its path is accepted: the kernels read these blocks instead of the table's and sum in the order of plain decoding.
// A bias on scores would leave siblings' lanes inside the sums: other tiles, other bits.
#pragma once

#include "kernels/cache_move.h"

namespace vivace::VIVACE_ISA {

// Their number is at most that of blocks of one token.
inline constexpr int32_t END_SLOTS[MAX_TREE_DEPTH] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// The end of one row's context for one kv head, in `memory` of tree_end_bytes.
inline void build_tree_end(const AttentionProblem& problem, const AttentionItem& item, uint8_t* memory, ContextEnd& end) {
  const KVLayer& cache = problem.cache;
  const Step& step = *problem.step;
  const int64_t size = cache.block_size, num_blocks = tree_end_blocks(size);
  int32_t path[MAX_TREE_DEPTH];
  int64_t depth = 0;
  for (int32_t row = item.row_begin; step.parents[row] >= 0; row = step.parents[row]) path[depth++] = row;
  const int64_t last = step.positions[item.row_begin], top = last - depth + 1;
  end.first_block = top / size;
  end.layer = cache;
  end.layer.num_blocks = num_blocks;
  end.layer.num_kv_heads = 1;
  end.layer.keys = memory;
  end.layer.values = memory + num_blocks * cache.key_bytes;
  end.layer.recent = end.layer.values + num_blocks * cache.value_bytes;
  end.layer.recent_stride = recent_head_bytes(cache);
  end.layer.recent_slots = END_SLOTS;
  if (top % size) {  // the sequence's own tokens before the first ancestor
    const int64_t block = step.block_tables[item.sequence * step.table_width + end.first_block];
    std::memcpy(end.layer.keys, cache.key_block(block, item.kv_head), static_cast<size_t>(cache.key_bytes));
    std::memcpy(end.layer.values, cache.value_block(block, item.kv_head), static_cast<size_t>(cache.value_bytes));
    if (cache.recent) {
      std::memcpy(end.layer.recent, cache.recent_keys(block, item.kv_head),
                  static_cast<size_t>(recent_head_bytes(cache)));
    }
  }
  for (int64_t position = top; position <= last; ++position) {
    const int64_t slot = step.slots[path[last - position]];
    move_token({cache, slot / size, item.kv_head, slot % size},
               {end.layer, position / size - end.first_block, 0, position % size});
  }
  if (cache.dtype != KVDtype::INT4_CHANNEL_KEYS) return;
  for (int64_t block = end.first_block; block < last / size; ++block) fill_block(end.layer, block - end.first_block, 0);
}

VIVACE_INLINE bool is_tree_item(const AttentionProblem& problem, const AttentionItem& item) {
  return problem.step->parents && problem.step->parents[item.row_begin] >= 0;
}

}  // namespace vivace::VIVACE_ISA
