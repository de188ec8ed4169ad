#include "attention_plan.h"

namespace vivace {

namespace {

// A share keeps states of rows x heads x chunks; beyond a few rows there are items enough without it.
constexpr int64_t MAX_SHARED_TOKENS = 8;

struct Span {
  int64_t chunk_begin, chunk_end;
};

Span visible_chunks(const AttentionProblem& problem, int64_t first_position, int64_t last_position) {
  const int64_t start = problem.window ? first_position - problem.window + 1 : 0;
  return {(start > 0 ? start : 0) / ATTENTION_CHUNK, last_position / ATTENTION_CHUNK + 1};
}

int64_t count_items(const AttentionProblem& problem, int64_t tokens_per_item) {
  const Step& step = *problem.step;
  int64_t count = 0;
  for (int64_t b = 0; b < step.num_sequences; ++b) {
    const int64_t rows = step.query_starts[b + 1] - step.query_starts[b];
    count += (rows + tokens_per_item - 1) / tokens_per_item * problem.cache.num_kv_heads;
  }
  return count;
}

void add_share(AttentionPlan& plan, AttentionItem item, Span chunks, int64_t states) {
  const int64_t count = chunks.chunk_end - chunks.chunk_begin;
  plan.shares.push_back({static_cast<int64_t>(plan.items.size()), count, states, plan.partial_floats});
  plan.partial_floats += count * states;
  for (int64_t chunk = chunks.chunk_begin; chunk < chunks.chunk_end; ++chunk) {
    item.chunk_begin = static_cast<int32_t>(chunk);
    item.chunk_end = static_cast<int32_t>(chunk + 1);
    plan.items.push_back(item);
  }
}

}  // namespace

void plan_attention(const AttentionProblem& problem, int num_threads, AttentionPlan& plan) {
  plan.items.clear();
  plan.shares.clear();
  plan.partial_floats = 0;
  plan.multiply_adds = 0.0;
  const Step& step = *problem.step;
  const int64_t group = problem.num_heads / problem.cache.num_kv_heads;
  const int64_t tokens_per_item = group < ATTENTION_ITEM_ROWS ? ATTENTION_ITEM_ROWS / group : 1;
  const bool may_share = num_threads > 1 && count_items(problem, tokens_per_item) < 4 * num_threads;
  for (int64_t b = 0; b < step.num_sequences; ++b) {
    const int64_t row_end = step.query_starts[b + 1];
    const int64_t rows = row_end - step.query_starts[b];
    // Later rows see more keys: taking them first leaves the short items to even out the threads.
    for (int64_t end = row_end; end > row_end - rows;) {
      const int64_t offset = (end - 1 - (row_end - rows)) % tokens_per_item;
      const int64_t begin = end - 1 - offset;
      const int64_t last_position = step.context_lens[b] - 1 - (row_end - end);
      const Span chunks = visible_chunks(problem, last_position - (end - 1 - begin), last_position);
      const int64_t visible = problem.window && problem.window < last_position ? problem.window : last_position + 1;
      plan.multiply_adds += 2.0 * static_cast<double>((end - begin) * problem.num_heads * problem.cache.head_dim) *
                            static_cast<double>(visible);
      for (int64_t head = 0; head < problem.cache.num_kv_heads; ++head) {
        const AttentionItem item{static_cast<int32_t>(b),
                                 static_cast<int32_t>(head),
                                 static_cast<int32_t>(begin),
                                 static_cast<int32_t>(end),
                                 static_cast<int32_t>(chunks.chunk_begin),
                                 static_cast<int32_t>(chunks.chunk_end),
                                 nullptr};
        if (may_share && rows <= MAX_SHARED_TOKENS && chunks.chunk_end - chunks.chunk_begin > 1) {
          add_share(plan, item, chunks, (end - begin) * group * attention_state_width(problem.cache.head_dim));
        } else {
          plan.items.push_back(item);
        }
      }
      end = begin;
    }
  }
}

void bind_partials(AttentionPlan& plan, float* partials) {
  for (const AttentionShare& share : plan.shares) {
    for (int64_t chunk = 0; chunk < share.num_chunks; ++chunk) {
      plan.items[static_cast<size_t>(share.first_item + chunk)].partial =
          partials + share.offset + chunk * share.chunk_stride;
    }
  }
}

}  // namespace vivace
