#include "op_checks.h"

#include <stdexcept>
#include <string>

namespace vivace {

namespace {

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace

void OpChecks::check_place(const Place& place) const {
  const int64_t rows = place.sampled ? max_sampled : max_tokens;
  require(place.width >= 1 && place.stride >= place.width && place.offset >= 0, "a value has no columns");
  require(place.stride <= arena_floats / rows && place.offset <= arena_floats &&
              (rows - 1) * place.stride + place.width <= arena_floats - place.offset,
          "a value lies outside the arena");
}

void OpChecks::check_same(const Place& a, const Place& b) const {
  check_place(a);
  check_place(b);
  require(a.width == b.width && a.sampled == b.sampled, "operands differ in shape");
}

void OpChecks::check_layer(int64_t layer) const {
  require(layer >= 0 && layer < cache.num_layers(), "the layer is not in the KV cache");
}

void OpChecks::operator()(const EmbeddingOp& op) const {
  check_place(op.out);
  require(!op.out.sampled && op.table->packed.columns == op.out.width, "embedding: shapes do not fit");
}

void OpChecks::operator()(const StatesOp& op) const {
  check_place(op.out);
  require(!op.out.sampled, "states: shapes do not fit");
}

void OpChecks::operator()(const HeadResidualsOp& op) const {
  check_place(op.x);
  check_place(op.z);
  check_place(op.out);
  require(!op.x.sampled && !op.z.sampled && op.out.sampled && op.out.width == op.x.width &&
              op.z.width % op.x.width == 0,
          "head_residuals: shapes do not fit");
}

void OpChecks::operator()(const RmsNormOp& op) const {
  check_same(op.x, op.out);
  require(op.groups >= 1 && op.weight->size * op.groups == op.x.width, "rms_norm: shapes do not fit");
}

void OpChecks::operator()(const LinearOp& op) const {
  check_place(op.x);
  check_place(op.out);
  require(op.x.sampled == op.out.sampled && !op.parts.empty(), "linear: shapes do not fit");
  int64_t width = 0;
  for (const LinearPart& part : op.parts) {
    const PackedMatrix& matrix = part.matrix->packed;
    require(matrix.columns == op.x.width, "linear: a matrix does not fit the value");
    require(!part.bias || part.bias->size == matrix.rows, "linear: a bias does not fit its matrix");
    width += matrix.rows;
  }
  require(width == op.out.width, "linear: the matrices do not fill the output");
}

void OpChecks::operator()(const RopeTableOp& op) const {
  check_place(op.out);
  require(!op.out.sampled && op.out.width == 2 * op.inv_freq->size, "rope_table: shapes do not fit");
}

void OpChecks::operator()(const RopeOp& op) const {
  check_same(op.x, op.out);
  check_place(op.table);
  require(op.table.sampled == op.x.sampled && op.table.width % 2 == 0, "rope: the table does not fit");
  require(op.head_dim >= op.table.width && op.x.width % op.head_dim == 0, "rope: heads do not fit");
}

void OpChecks::operator()(const KVWriteOp& op) const {
  check_same(op.k, op.v);
  check_layer(op.layer);
  const KVLayer& layer = cache.layer(op.layer);
  require(!op.k.sampled && op.k.width == layer.num_kv_heads * layer.head_dim, "kv_write: shapes do not fit");
}

void OpChecks::operator()(const AttentionOp& op) const {
  check_same(op.q, op.out);
  check_layer(op.layer);
  const KVLayer& layer = cache.layer(op.layer);
  require(op.num_heads >= 1 && op.num_heads % layer.num_kv_heads == 0, "attention: query heads do not divide");
  require(!op.q.sampled && op.q.width == op.num_heads * layer.head_dim, "attention: shapes do not fit");
  require(op.window >= 0, "attention: the window is negative");
}

void OpChecks::operator()(const GatedActivationOp& op) const {
  check_place(op.gate_up);
  check_place(op.out);
  require(op.gate_up.sampled == op.out.sampled && op.gate_up.width == 2 * op.out.width,
          "gated_activation: shapes do not fit");
}

void OpChecks::operator()(const AddOp& op) const {
  check_same(op.x, op.out);
  check_same(op.y, op.out);
}

void OpChecks::operator()(const SoftcapOp& op) const { check_same(op.x, op.out); }

void OpChecks::operator()(const ScaleOp& op) const { check_same(op.x, op.out); }

void OpChecks::operator()(const GatherRowsOp& op) const {
  check_place(op.x);
  check_place(op.out);
  require(!op.x.sampled && op.out.sampled && op.x.width == op.out.width, "gather_rows: shapes do not fit");
}

namespace {

// True if every value lies in [0, limit): one unsigned comparison each, so that the loop vectorises.
bool all_below(const int32_t* values, int64_t count, int64_t limit) {
  const auto bound = static_cast<uint32_t>(limit < INT32_MAX ? limit : INT32_MAX);
  uint32_t outside = 0;
  for (int64_t i = 0; i < count; ++i) outside |= static_cast<uint32_t>(static_cast<uint32_t>(values[i]) >= bound);
  return outside == 0;
}

void check_sequence(const Step& step, const KVCache& cache, int64_t b) {
  const std::string where = "sequence " + std::to_string(b) + ": ";
  const int64_t new_tokens = static_cast<int64_t>(step.query_starts[b + 1]) - step.query_starts[b];
  const int64_t context = step.context_lens[b];
  if (new_tokens < 0 || context < new_tokens) throw std::invalid_argument(where + "query_starts and context_lens disagree");
  const int64_t blocks = (context + cache.block_size() - 1) / cache.block_size();
  if (blocks > step.table_width) throw std::invalid_argument(where + "its block table is too short for its context");
  if (!all_below(step.block_tables + b * step.table_width, blocks, cache.num_blocks())) {
    throw std::invalid_argument(where + "a block id is outside the KV cache");
  }
}

// A row with a parent is a sequence of one row, one position behind its parent.
void check_parents(const Step& step) {
  for (int64_t b = 0; b < step.num_sequences; ++b) {
    const int32_t begin = step.query_starts[b], end = step.query_starts[b + 1];
    for (int32_t row = begin; row < end; ++row) {
      const int32_t parent = step.parents[row];
      if (parent < 0) continue;
      require(parent < row && end - begin == 1, "a row with a parent follows it, in a sequence of its own");
      require(step.positions[row] == step.positions[parent] + 1 && step.context_lens[b] - 1 == step.positions[row],
              "a row with a parent stands one position behind it");
      int64_t depth = 1;
      for (int32_t above = parent; step.parents[above] >= 0; above = step.parents[above]) ++depth;
      require(depth <= MAX_TREE_DEPTH, "a path of guesses is too long");
    }
  }
}

}  // namespace

void check_step(const Step& step, const KVCache& cache, int64_t max_tokens, int64_t max_sampled, int64_t vocabulary) {
  require(step.num_tokens >= 1 && step.num_tokens <= max_tokens, "the step has more tokens than the program takes");
  require(step.num_sampled <= max_sampled, "the step samples more rows than the program takes");
  require(all_below(step.token_ids, step.num_tokens, vocabulary), "a token id is outside the vocabulary");
  require(all_below(step.slots, step.num_tokens, cache.num_blocks() * cache.block_size()),
          "a slot is outside the KV cache");
  require(all_below(step.sampled_rows, step.num_sampled, step.num_tokens), "a sampled row is outside the step");
  require(step.query_starts[0] == 0 && step.query_starts[step.num_sequences] == step.num_tokens,
          "query_starts do not cover the step");
  for (int64_t b = 0; b < step.num_sequences; ++b) check_sequence(step, cache, b);
  if (step.parents) check_parents(step);
}

}  // namespace vivace
