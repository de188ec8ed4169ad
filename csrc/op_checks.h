// Shape checks of operations as they are appended to a program. Each throws std::invalid_argument: a program that was
// accepted touches no memory outside its arena, weights and cache.
#pragma once

#include "program.h"

namespace vivace {

struct OpChecks {
  const KVCache& cache;
  int64_t max_tokens;
  int64_t max_sampled;
  int64_t arena_floats;

  void operator()(const EmbeddingOp& op) const;
  void operator()(const StatesOp& op) const;
  void operator()(const HeadResidualsOp& op) const;
  void operator()(const RmsNormOp& op) const;
  void operator()(const LinearOp& op) const;
  void operator()(const RopeTableOp& op) const;
  void operator()(const RopeOp& op) const;
  void operator()(const KVWriteOp& op) const;
  void operator()(const AttentionOp& op) const;
  void operator()(const GatedActivationOp& op) const;
  void operator()(const AddOp& op) const;
  void operator()(const SoftcapOp& op) const;
  void operator()(const ScaleOp& op) const;
  void operator()(const GatherRowsOp& op) const;

  void check_place(const Place& place) const;

 private:
  void check_layer(int64_t layer) const;
  void check_same(const Place& a, const Place& b) const;
};

// Checks a step's integers against the cache and the program's limits.
void check_step(const Step& step, const KVCache& cache, int64_t max_tokens, int64_t max_sampled, int64_t vocabulary);

}  // namespace vivace
