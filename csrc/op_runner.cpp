// Runs each operation of a program on the pool.
#include <math.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#include "op_checks.h"
#include "program.h"

namespace vivace {

namespace {

// A task of two shares costs 0.3 us beyond the longer one: below about twice that a thread works alone. Elements a
// microsecond, measured on one core: additions 8,000, exponentials 3,000.
constexpr int64_t COLUMN_CHUNK = 1024;
constexpr int64_t MIN_CHEAP_CHUNKS = 32;
constexpr int64_t MIN_COSTLY_CHUNKS = 4;
constexpr int64_t MIN_SHARE_FLOATS = 4 * 1024;  // norms, rotations, activations as int8: 0.15 to 0.3 ns each
constexpr double MIN_SHARED_LINEAR_BYTES = 128.0 * 1024;
constexpr double MIN_SHARED_MULTIPLY_ADDS = 64.0 * 1024;

// Small matrices that meet many rows are shared by rows: every thread reads all of the weights, from the caches, and the
// rows stay with the thread that norms, rotates and adds them. A line that another core wrote takes 0.05 to 0.2 us.
constexpr size_t MAX_ROW_SHARED_BYTES = 3 << 20;
constexpr int64_t MIN_SHARE_ROWS = 16;

// A thread takes its share of a matrix in pieces, so that what it has left can be taken from it: an eighth of the share,
// unless that is less than the 5 us that a core reads for.
constexpr int64_t PIECES_A_SHARE = 8;
constexpr size_t MIN_PIECE_BYTES = 64 * 1024;

int64_t linear_piece(int64_t blocks, int64_t threads, size_t weight_bytes) {
  const int64_t piece = (blocks + threads * PIECES_A_SHARE - 1) / (threads * PIECES_A_SHARE);
  const size_t block_bytes = weight_bytes / static_cast<size_t>(blocks) + 1;
  const auto least = static_cast<int64_t>((MIN_PIECE_BYTES + block_bytes - 1) / block_bytes);
  return piece < least ? least : piece;
}

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

int64_t min_rows(int64_t width) { return width < MIN_SHARE_FLOATS ? MIN_SHARE_FLOATS / width : 1; }

}  // namespace

struct OpRunner {
  Program& program;
  const Step& step;
  ThreadPool& pool = program.device_->pool;
  const KernelTable& kernels = program.device_->kernels;

  Rows rows(const Place& place) const { return {program.arena() + place.offset, place.stride, place.width}; }
  int64_t count(const Place& place) const { return place.sampled ? step.num_sampled : step.num_tokens; }

  // Shares a matrix among threads by rows and, where these are few, by columns.
  template <class Function>
  void for_ranges(const Place& out, int64_t min_chunks, Function function) const {
    const int64_t chunks = (out.width + COLUMN_CHUNK - 1) / COLUMN_CHUNK;
    pool.parallel_for(count(out) * chunks, min_chunks, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t row = item / chunks, column = item % chunks * COLUMN_CHUNK;
        const int64_t column_end = column + COLUMN_CHUNK < out.width ? column + COLUMN_CHUNK : out.width;
        function(Range{row, row + 1, column, column_end});
      }
    });
  }

  void operator()(const EmbeddingOp& op) const {
    const Rows out = rows(op.out);
    pool.parallel_for(step.num_tokens, min_rows(out.width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        kernels.linear.embedding_row(op.table->packed, step.token_ids[row], op.scale, out.data + row * out.stride);
      }
    });
  }

  void operator()(const StatesOp& op) const {
    const Rows out = rows(op.out);
    for (int64_t row = 0; row < step.num_tokens; ++row) {
      std::memcpy(out.data + row * out.stride, step.states + row * step.states_width,
                  static_cast<size_t>(out.width) * sizeof(float));
    }
  }

  void operator()(const RmsNormOp& op) const {
    const Rows x = rows(op.x), out = rows(op.out);
    pool.parallel_for(count(op.out), min_rows(x.width), [&](int64_t begin, int64_t end) {
      kernels.rows.rms_norm(x, op.weight->data, op.eps, op.groups, out, begin, end);
    });
  }

  void operator()(const LinearOp& op) const {
    const Rows x = rows(op.x), out = rows(op.out);
    const int64_t num_rows = count(op.out);
    if (num_rows == 0) return;
    uint8_t* scratch = program.linear_scratch_.reserve(program.linear_scratch_bytes_);
    if (op.weight_bytes <= MAX_ROW_SHARED_BYTES && num_rows >= 2 * MIN_SHARE_ROWS && pool.size() > 1) {
      pool.parallel_for(num_rows, MIN_SHARE_ROWS, [&](int64_t begin, int64_t end) {
        compute_rows(op, scratch, begin, end);
      });
      return;
    }
    for (const LinearPart& part : op.parts) {
      if (!part.prepares) continue;
      pool.parallel_for(num_rows, min_rows(x.width), [&](int64_t begin, int64_t end) {
        kernels.linear.prepare(part.matrix->packed, x.data, x.stride, num_rows, scratch + part.scratch, begin, end);
      });
    }
    const auto compute = [&](int64_t first, int64_t last) {
      for (const LinearPart& part : op.parts) {
        const int64_t blocks = output_blocks(part.matrix->packed.rows);
        const int64_t begin = first > part.first_block ? first - part.first_block : 0;
        const int64_t end = last - part.first_block < blocks ? last - part.first_block : blocks;
        if (begin >= end) continue;
        kernels.linear.run(part.matrix->packed, x.data, x.stride, scratch + part.scratch, num_rows,
                           out.data + part.column, out.stride, part.bias ? part.bias->data : nullptr, begin, end);
      }
    };
    if (static_cast<double>(op.weight_bytes) * static_cast<double>(num_rows) < MIN_SHARED_LINEAR_BYTES) {
      compute(0, op.thread_blocks.back());
      return;
    }
    WorkShares& shares = program.work_shares_;
    shares.reset(op.thread_blocks.data());
    const int64_t piece = linear_piece(op.thread_blocks.back(), pool.size(), op.weight_bytes);
    pool.run([&](int thread) { shares.work(thread, piece, compute); });
  }

  // All outputs of rows [begin, end), as a product of their own.
  void compute_rows(const LinearOp& op, uint8_t* scratch, int64_t begin, int64_t end) const {
    const Rows x = rows(op.x), out = rows(op.out);
    for (const LinearPart& part : op.parts) {
      const PackedMatrix& matrix = part.matrix->packed;
      uint8_t* prepared = scratch + part.scratch + scratch_offset(kernels.linear.scratch_bytes(matrix, begin), begin);
      const float* from = x.data + begin * x.stride;
      if (part.prepares) kernels.linear.prepare(matrix, from, x.stride, end - begin, prepared, 0, end - begin);
      kernels.linear.run(matrix, from, x.stride, prepared, end - begin, out.data + begin * out.stride + part.column,
                         out.stride, part.bias ? part.bias->data : nullptr, 0, output_blocks(matrix.rows));
    }
  }

  void operator()(const RopeTableOp& op) const {
    const Rows out = rows(op.out);
    const int64_t half = op.inv_freq->size;
    pool.parallel_for(step.num_tokens, 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* cosine = out.data + row * out.stride;
        for (int64_t i = 0; i < half; ++i) {
          const float angle = static_cast<float>(step.positions[row]) * op.inv_freq->data[i];
          cosine[i] = cosf(angle) * op.scale;
          cosine[half + i] = sinf(angle) * op.scale;
        }
      }
    });
  }

  void operator()(const RopeOp& op) const {
    const Rows x = rows(op.x), table = rows(op.table), out = rows(op.out);
    pool.parallel_for(count(op.out), min_rows(x.width), [&](int64_t begin, int64_t end) {
      kernels.rows.rope(x, table, op.head_dim, out, begin, end);
    });
  }

  void operator()(const KVWriteOp& op) const {
    const Rows k = rows(op.k), v = rows(op.v);
    const KVLayer& layer = program.cache_->layer(op.layer);
    pool.parallel_for(step.num_tokens, min_rows(2 * k.width), [&](int64_t begin, int64_t end) {
      kernels.attention.write(layer, step.slots, k.data, k.stride, v.data, v.stride, begin, end);
    });
    if (layer.dtype != KVDtype::INT4_CHANNEL_KEYS) return;
    pool.parallel_for(step.num_tokens, min_rows(2 * k.width),
                      [&](int64_t begin, int64_t end) { kernels.attention.fill(layer, step.slots, begin, end); });
  }

  void operator()(const AttentionOp& op) const {
    const Rows q = rows(op.q), out = rows(op.out);
    const AttentionProblem problem{q.data,       q.stride, out.data,  out.stride, program.cache_->layer(op.layer),
                                   op.num_heads, op.scale, op.window, op.softcap, &step};
    AttentionPlan& plan = program.attention_plan_;
    plan_attention(problem, pool.size(), plan);
    bind_partials(plan, program.attention_partials_.reserve_floats(plan.partial_floats));
    const int64_t stride = program.attention_scratch_floats_;
    float* scratch = program.attention_scratch_.reserve_floats(stride * pool.size());
    for_items(static_cast<int64_t>(plan.items.size()), plan.multiply_adds, [&](int64_t index, int thread) {
      kernels.attention.attend(problem, plan.items[static_cast<size_t>(index)], scratch + thread * stride);
    });
    for_items(static_cast<int64_t>(plan.shares.size()), 0.0, [&](int64_t index, int thread) {
      const AttentionShare& share = plan.shares[static_cast<size_t>(index)];
      kernels.attention.merge(problem, plan.items[static_cast<size_t>(share.first_item)], share.num_chunks,
                              share.chunk_stride, scratch + thread * stride);
    });
  }

  // Items differ in cost, so a thread that is done takes one of another's. They are in the order of rows, which stay with
  // the thread that wrote them where there are many. No result depends on who takes which.
  template <class Function>
  void for_items(int64_t count, double multiply_adds, Function function) const {
    if (multiply_adds < MIN_SHARED_MULTIPLY_ADDS || count < 2 || pool.size() < 2) {
      for (int64_t index = 0; index < count; ++index) function(index, 0);
      return;
    }
    std::vector<int64_t>& bounds = program.item_bounds_;
    for (int thread = 0; thread <= pool.size(); ++thread) {
      bounds[static_cast<size_t>(thread)] = count * thread / pool.size();
    }
    WorkShares& shares = program.work_shares_;
    shares.reset(bounds.data());
    pool.run([&](int thread) { shares.work(thread, 1, [&](int64_t index, int64_t) { function(index, thread); }); });
  }

  void operator()(const GatedActivationOp& op) const {
    const Rows gate_up = rows(op.gate_up), out = rows(op.out);
    for_ranges(op.out, MIN_COSTLY_CHUNKS,
               [&](Range range) { kernels.rows.gated_activation(gate_up, op.activation, out, range); });
  }

  void operator()(const AddOp& op) const {
    const Rows x = rows(op.x), y = rows(op.y), out = rows(op.out);
    for_ranges(op.out, MIN_CHEAP_CHUNKS, [&](Range range) { kernels.rows.add(x, y, out, range); });
  }

  void operator()(const SoftcapOp& op) const {
    const Rows x = rows(op.x), out = rows(op.out);
    for_ranges(op.out, MIN_COSTLY_CHUNKS, [&](Range range) { kernels.rows.softcap(x, op.cap, out, range); });
  }

  void operator()(const ScaleOp& op) const {
    const Rows x = rows(op.x), out = rows(op.out);
    for_ranges(op.out, MIN_CHEAP_CHUNKS, [&](Range range) { kernels.rows.scale(x, op.factor, out, range); });
  }

  void operator()(const HeadResidualsOp& op) const {
    const Rows x = rows(op.x), z = rows(op.z), out = rows(op.out);
    const int64_t heads = z.width / x.width;
    for (int64_t row = 0; row < step.num_tokens; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        kernels.rows.silu_residual({x.data + row * x.stride, x.stride, x.width},
                                   {z.data + row * z.stride + head * x.width, z.stride, x.width},
                                   {out.data + (row * heads + head) * out.stride, out.stride, x.width});
      }
    }
  }

  void operator()(const GatherRowsOp& op) const {
    const Rows x = rows(op.x), out = rows(op.out);
    for (int64_t row = 0; row < step.num_sampled; ++row) {
      std::memcpy(out.data + row * out.stride, x.data + step.sampled_rows[row] * x.stride,
                  static_cast<size_t>(x.width) * sizeof(float));
    }
  }
};

void Program::run(const Step& step, double* op_seconds) {
  const auto started = op_seconds ? Clock::now() : Clock::time_point{};
  check_step(step, *cache_, max_tokens_, max_sampled_, vocabulary_);
  if (states_width_ && (!step.states || step.states_width != states_width_)) {
    throw std::invalid_argument("the program takes states of another width");
  }
  if (heads_ && step.num_sampled != heads_ * step.num_tokens) {
    throw std::invalid_argument("the program samples " + std::to_string(heads_) + " rows of each token");
  }
  const std::lock_guard turn(device_->pool.turn());
  cache_->prepare(step);
  OpRunner runner{*this, step};
  if (!op_seconds) {
    for (const Op& op : ops_) std::visit(runner, op);
    return;
  }
  auto last = Clock::now();
  op_seconds[ops_.size()] = seconds_between(started, last);
  for (const Op& op : ops_) {
    std::visit(runner, op);
    const auto now = Clock::now();
    *op_seconds++ = seconds_between(last, now);
    last = now;
  }
}

}  // namespace vivace
