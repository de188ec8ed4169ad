// Cuts one attention operation of one step into work items.
#pragma once

#include <vector>

#include "attention.h"

namespace vivace {

// An item covers this many rows x query heads, or one row: enough that a chunk's keys and values come from memory once
// for many products, few enough that they (128 KiB in bf16 at head_dim 64) and the states stay in L2.
inline constexpr int64_t ATTENTION_ITEM_ROWS = 64;

inline int64_t attention_item_rows(int64_t group) { return group > ATTENTION_ITEM_ROWS ? group : ATTENTION_ITEM_ROWS; }

// A context shared among threads chunk by chunk: where one sequence of few new tokens has fewer kv heads than there are
// threads.
struct AttentionShare {
  int64_t first_item;   // its items follow each other, one a chunk
  int64_t num_chunks;
  int64_t chunk_stride;  // floats between the states of two chunks
  int64_t offset;        // floats into the partials
};

struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<AttentionShare> shares;
  int64_t partial_floats = 0;
  double multiply_adds = 0.0;
};

// Replaces the plan. Items of a share have no `partial` before bind_partials.
void plan_attention(const AttentionProblem& problem, int num_threads, AttentionPlan& plan);

// `partials` holds plan.partial_floats.
void bind_partials(AttentionPlan& plan, float* partials);

}  // namespace vivace
