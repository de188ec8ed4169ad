// A recorded program: operations over one arena of activations, run by one call.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "attention_plan.h"
#include "device.h"
#include "kv_cache.h"
#include "work_shares.h"

namespace vivace {

// A value of ops/program.py, placed: row r begins `offset + r * stride` floats into the arena.
struct Place {
  int64_t offset;
  int64_t stride;
  int64_t width;
  bool sampled;  // S rows; else T
};

struct EmbeddingOp {
  std::shared_ptr<Matrix> table;
  float scale;
  Place out;
};

struct StatesOp {
  Place out;
};

struct RmsNormOp {
  Place x;
  std::shared_ptr<Vector> weight;
  float eps;
  int64_t groups;
  Place out;
};

struct LinearPart {
  std::shared_ptr<Matrix> matrix;
  std::shared_ptr<Vector> bias;  // or null
  int64_t column;                // of the first output
  int64_t first_block;           // parts count their output blocks one after the other
  size_t scratch;                // where the prepared activations lie
  bool prepares;                 // this part fills the scratch, others of its kind share it
};

struct LinearOp {
  Place x;
  std::vector<LinearPart> parts;
  Place out;
  std::vector<int64_t> thread_blocks;  // thread t begins with blocks [t, t + 1) of this list: equal weight bytes
  size_t weight_bytes;
};

// Where the prepared activations behind `num_rows` rows of `num_bytes` begin at the earliest, whatever shares rows come in.
inline size_t scratch_offset(size_t num_bytes, int64_t num_rows) {
  return (num_bytes + static_cast<size_t>(num_rows) * 64 + 63) / 64 * 64;
}

struct RopeTableOp {
  std::shared_ptr<Vector> inv_freq;
  float scale;
  Place out;
};

struct RopeOp {
  Place x;
  Place table;
  int64_t head_dim;
  Place out;
};

struct KVWriteOp {
  Place k;
  Place v;
  int64_t layer;
};

struct AttentionOp {
  Place q;
  int64_t layer;
  int64_t num_heads;
  float scale;
  int64_t window;
  float softcap;
  Place out;
};

struct GatedActivationOp {
  Place gate_up;
  Activation activation;
  Place out;
};

struct AddOp {
  Place x;
  Place y;
  Place out;
};

struct SoftcapOp {
  Place x;
  float cap;
  Place out;
};

struct ScaleOp {
  Place x;
  float factor;
  Place out;
};

struct HeadResidualsOp {
  Place x;
  Place z;
  Place out;
};

struct GatherRowsOp {
  Place x;
  Place out;
};

using Op = std::variant<EmbeddingOp, StatesOp, RmsNormOp, LinearOp, RopeTableOp, RopeOp, KVWriteOp, AttentionOp,
                        GatedActivationOp, AddOp, SoftcapOp, ScaleOp, HeadResidualsOp, GatherRowsOp>;

class Program {
 public:
  Program(std::shared_ptr<Device> device, std::shared_ptr<KVCache> cache, int64_t max_tokens, int64_t max_sampled,
          int64_t arena_floats);

  // Checks that the operation's shapes fit and its places lie in the arena; throws std::invalid_argument.
  void append(Op op);
  void set_output(Place output);
  void check_place(Place place) const;

  // Checks the step's integers, then runs every operation. Throws std::invalid_argument before any work is done.
  // `op_seconds`, if given, takes the time of each operation (num_ops of them) and of everything else at its end.
  void run(const Step& step, double* op_seconds = nullptr);

  size_t num_ops() const { return ops_.size(); }

  const Place& output() const { return output_; }
  float* data(const Place& place) const { return arena() + place.offset; }
  int64_t max_rows(const Place& place) const { return place.sampled ? max_sampled_ : max_tokens_; }

 private:
  friend struct OpRunner;

  float* arena() const { return reinterpret_cast<float*>(memory_.data()); }
  void plan_linear(LinearOp& op);

  std::shared_ptr<Device> device_;
  std::shared_ptr<KVCache> cache_;
  int64_t max_tokens_;
  int64_t max_sampled_;
  int64_t arena_floats_;
  Mapping memory_;
  std::vector<Op> ops_;
  Place output_{};
  int64_t vocabulary_ = INT64_MAX;  // rows of the smallest embedding table
  int64_t states_width_ = 0;        // of the rows that a step must bring; 0: none
  int64_t heads_ = 0;               // sampled rows of each token, where that is fixed; 0: it is not

  WorkShares work_shares_;
  std::vector<int64_t> item_bounds_;
  Scratch linear_scratch_;
  size_t linear_scratch_bytes_ = 0;
  int64_t attention_scratch_floats_ = 0;  // of one thread
  Scratch attention_scratch_;             // of all threads
  Scratch attention_partials_;            // grows with the longest context that was shared among threads
  AttentionPlan attention_plan_;          // kept between runs for its memory
};

}  // namespace vivace
