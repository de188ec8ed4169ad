#include "program.h"

#include <algorithm>
#include <stdexcept>

#include "op_checks.h"

namespace vivace {

namespace {

bool same_order(const Matrix& a, const Matrix& b) {
  return a.input_order == b.input_order || (a.input_order && b.input_order && *a.input_order == *b.input_order);
}

size_t at_least_one(int64_t floats) { return static_cast<size_t>(floats < 1 ? 1 : floats) * sizeof(float); }

}  // namespace

Program::Program(std::shared_ptr<Device> device, std::shared_ptr<KVCache> cache, int64_t max_tokens,
                 int64_t max_sampled, int64_t arena_floats)
    : device_(std::move(device)),
      cache_(std::move(cache)),
      max_tokens_(max_tokens),
      max_sampled_(max_sampled),
      arena_floats_(arena_floats),
      memory_(at_least_one(arena_floats)),
      work_shares_(device_->pool.size()),
      item_bounds_(static_cast<size_t>(device_->pool.size()) + 1) {
  if (max_tokens < 1 || max_sampled < 1) throw std::invalid_argument("a step has at least one token and one row");
}

void Program::append(Op op) {
  const OpChecks checks{*cache_, max_tokens_, max_sampled_, arena_floats_};
  std::visit(checks, op);
  if (auto* linear = std::get_if<LinearOp>(&op)) plan_linear(*linear);
  if (auto* attention = std::get_if<AttentionOp>(&op)) {
    const KVLayer& layer = cache_->layer(attention->layer);
    const int64_t rows = attention_item_rows(attention->num_heads / layer.num_kv_heads);
    const int64_t needed = attention_scratch_floats(layer, rows);
    if (needed > attention_scratch_floats_) attention_scratch_floats_ = (needed + 15) / 16 * 16;
  }
  if (auto* states = std::get_if<StatesOp>(&op)) states_width_ = states->out.width;
  if (auto* residuals = std::get_if<HeadResidualsOp>(&op)) heads_ = residuals->z.width / residuals->x.width;
  if (auto* embedding = std::get_if<EmbeddingOp>(&op)) {
    vocabulary_ = std::min(vocabulary_, embedding->table->packed.rows);
  }
  ops_.push_back(std::move(op));
}

void Program::check_place(Place place) const {
  OpChecks{*cache_, max_tokens_, max_sampled_, arena_floats_}.check_place(place);
}

void Program::set_output(Place output) {
  check_place(output);
  output_ = output;
}

// Parts of one activation kind and input order share the prepared rows. Threads get contiguous shares of the weights' bytes, because
// bytes are what a decode step waits for and layouts differ in them.
void Program::plan_linear(LinearOp& op) {
  const LinearKernels& kernels = device_->kernels.linear;
  size_t scratch = 0;
  int64_t blocks = 0, column = 0;
  for (size_t i = 0; i < op.parts.size(); ++i) {
    LinearPart& part = op.parts[i];
    const PackedMatrix& matrix = part.matrix->packed;
    part.column = column;
    part.first_block = blocks;
    column += matrix.rows;
    blocks += output_blocks(matrix.rows);
    const int kind = kernels.activation_kind(matrix.layout);
    part.prepares = kind != 0;
    for (size_t j = 0; j < i; ++j) {
      const Matrix& earlier = *op.parts[j].matrix;
      if (kernels.activation_kind(earlier.packed.layout) == kind && same_order(earlier, *part.matrix)) {
        part.prepares = false;
        part.scratch = op.parts[j].scratch;
        break;
      }
    }
    if (part.prepares) {
      part.scratch = scratch;
      const int64_t rows = op.x.sampled ? max_sampled_ : max_tokens_;
      scratch += scratch_offset(kernels.scratch_bytes(matrix, rows), rows);
    }
    op.weight_bytes += matrix.num_bytes;
  }
  linear_scratch_bytes_ = std::max(linear_scratch_bytes_, scratch);

  const int threads = device_->pool.size();
  op.thread_blocks.assign(static_cast<size_t>(threads) + 1, blocks);
  op.thread_blocks[0] = 0;
  double seen = 0.0;
  int thread = 1;
  for (const LinearPart& part : op.parts) {
    const PackedMatrix& matrix = part.matrix->packed;
    const int64_t count = output_blocks(matrix.rows);
    const double bytes = static_cast<double>(matrix.num_bytes) / static_cast<double>(count);
    for (int64_t block = 0; block < count; ++block) {
      const double middle = seen + bytes / 2;
      while (thread < threads && middle >= static_cast<double>(op.weight_bytes) * thread / threads) {
        op.thread_blocks[static_cast<size_t>(thread++)] = part.first_block + block;
      }
      seen += bytes;
    }
  }
}

}  // namespace vivace
