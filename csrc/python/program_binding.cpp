// KVCache and Program for Python. std::invalid_argument becomes ValueError.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <tuple>

#include "program.h"
#include "python/arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vivace {
namespace {

using SharedVector = std::shared_ptr<Vector>;
using PythonPart = std::tuple<std::shared_ptr<Matrix>, std::optional<SharedVector>>;

std::shared_ptr<KVCache> make_cache(int dtype, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
                                    int64_t block_size, int64_t num_blocks) {
  if (dtype < 0 || dtype > static_cast<int>(KVDtype::INT4_CHANNEL_KEYS)) throw nb::value_error("unknown KV dtype");
  return std::make_shared<KVCache>(static_cast<KVDtype>(dtype), num_layers, num_kv_heads, head_dim, block_size,
                                   num_blocks);
}

void add_linear(Program& program, Place x, const std::vector<PythonPart>& parts, Place out) {
  LinearOp op{.x = x, .parts = {}, .out = out, .thread_blocks = {}, .weight_bytes = 0};
  for (const auto& [matrix, bias] : parts) {
    op.parts.push_back({.matrix = matrix, .bias = bias.value_or(nullptr), .column = 0, .first_block = 0, .scratch = 0,
                        .prepares = false});
  }
  program.append(std::move(op));
}

void add_gated_activation(Program& program, Place gate_up, int activation, Place out) {
  if (activation < 0 || activation > static_cast<int>(Activation::GELU_TANH)) throw nb::value_error("unknown activation");
  program.append(GatedActivationOp{gate_up, static_cast<Activation>(activation), out});
}

using Seconds = ContiguousArray<double, 1>;

void run(Program& program, Ints1 token_ids, Ints1 positions, Ints1 slots, Ints1 query_starts, Ints1 context_lens,
         Ints2 block_tables, Ints1 sampled_rows, std::optional<Ints1> parents, std::optional<Floats2> states,
         std::optional<Seconds> op_seconds) {
  if (length(positions) != length(token_ids) || length(slots) != length(token_ids)) {
    throw std::invalid_argument("token_ids, positions and slots differ in length");
  }
  if (length(query_starts) != length(context_lens) + 1 || length(block_tables) < length(context_lens)) {
    throw std::invalid_argument("query_starts, context_lens and block_tables disagree on the sequences");
  }
  if (parents && length(*parents) != length(token_ids)) throw std::invalid_argument("parents has an entry for each token");
  if (states && length(*states) != length(token_ids)) throw std::invalid_argument("states has a row for each token");
  if (op_seconds && length(*op_seconds) != static_cast<int64_t>(program.num_ops()) + 1) {
    throw std::invalid_argument("op_seconds has an element for each operation and one more");
  }
  double* seconds = op_seconds ? op_seconds->data() : nullptr;
  const Step step{.num_tokens = length(token_ids),
                  .num_sampled = length(sampled_rows),
                  .num_sequences = length(context_lens),
                  .token_ids = token_ids.data(),
                  .positions = positions.data(),
                  .slots = slots.data(),
                  .query_starts = query_starts.data(),
                  .context_lens = context_lens.data(),
                  .block_tables = block_tables.data(),
                  .table_width = length(block_tables, 1),
                  .sampled_rows = sampled_rows.data(),
                  .parents = parents ? parents->data() : nullptr,
                  .states = states ? states->data() : nullptr,
                  .states_width = states ? length(*states, 1) : 0};
  nb::gil_scoped_release release;
  program.run(step, seconds);
}

using FloatMatrix = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

FloatMatrix array_at(nb::handle_t<Program> handle, const Place& place) {
  const Program& program = nb::cast<const Program&>(handle);
  program.check_place(place);
  return FloatMatrix(program.data(place), {static_cast<size_t>(program.max_rows(place)), static_cast<size_t>(place.width)},
                     handle, {place.stride, 1});
}

FloatMatrix output_array(nb::handle_t<Program> handle) {
  return array_at(handle, nb::cast<const Program&>(handle).output());
}

// The operations' argument order is that of ops/program.py.
void bind_operations(nb::class_<Program>& program) {
  program
      .def("embedding", [](Program& self, std::shared_ptr<Matrix> table, float scale,
                           Place out) { self.append(EmbeddingOp{std::move(table), scale, out}); })
      .def("states", [](Program& self, Place out) { self.append(StatesOp{out}); })
      .def("rms_norm",
           [](Program& self, Place x, SharedVector weight, float eps, int64_t groups, Place out) {
             self.append(RmsNormOp{x, std::move(weight), eps, groups, out});
           })
      .def("linear", &add_linear)
      .def("rope_table", [](Program& self, SharedVector inv_freq, float scale,
                            Place out) { self.append(RopeTableOp{std::move(inv_freq), scale, out}); })
      .def("rope", [](Program& self, Place x, Place table, int64_t head_dim,
                      Place out) { self.append(RopeOp{x, table, head_dim, out}); })
      .def("kv_write",
           [](Program& self, Place k, Place v, int64_t layer) { self.append(KVWriteOp{k, v, layer}); })
      .def("attention",
           [](Program& self, Place q, int64_t layer, int64_t num_heads, float scale, int64_t window, float softcap,
              Place out) { self.append(AttentionOp{q, layer, num_heads, scale, window, softcap, out}); })
      .def("gated_activation", &add_gated_activation)
      .def("add", [](Program& self, Place x, Place y, Place out) { self.append(AddOp{x, y, out}); })
      .def("softcap", [](Program& self, Place x, float cap, Place out) { self.append(SoftcapOp{x, cap, out}); })
      .def("scale", [](Program& self, Place x, float factor, Place out) { self.append(ScaleOp{x, factor, out}); })
      .def("head_residuals",
           [](Program& self, Place x, Place z, Place out) { self.append(HeadResidualsOp{x, z, out}); })
      .def("gather_rows", [](Program& self, Place x, Place out) { self.append(GatherRowsOp{x, out}); });
}

}  // namespace

void bind_program(nb::module_& module) {
  nb::class_<KVCache>(module, "KVCache")
      .def(nb::new_(&make_cache), "dtype"_a, "num_layers"_a, "num_kv_heads"_a, "head_dim"_a, "block_size"_a,
           "num_blocks"_a)
      .def_prop_ro("num_bytes", &KVCache::num_bytes)
      .def("copy_blocks", &KVCache::copy_blocks, "pairs"_a)
      .def(
          "move_tokens",
          [](KVCache& self, Device& device, const std::vector<std::pair<int64_t, int64_t>>& pairs) {
            self.move_tokens(device.kernels.attention, pairs);
          },
          "device"_a, "pairs"_a)
      .def_prop_ro("num_recent", &KVCache::num_recent)
      .def("recent_blocks", &KVCache::recent_blocks)
      .def("drop_recent", &KVCache::drop_recent, "blocks"_a);

  nb::class_<Place>(module, "Place")
      .def(nb::new_([](int64_t offset, int64_t stride, int64_t width, bool sampled) {
             return Place{offset, stride, width, sampled};
           }),
           "offset"_a, "stride"_a, "width"_a, "sampled"_a);

  nb::class_<Program> program(module, "Program");
  program
      .def(nb::init<std::shared_ptr<Device>, std::shared_ptr<KVCache>, int64_t, int64_t, int64_t>(), "device"_a,
           "cache"_a, "max_tokens"_a, "max_sampled"_a, "arena_floats"_a)
      .def("set_output", &Program::set_output, "output"_a)
      .def("output", &output_array)
      .def("array_at", &array_at, "place"_a)
      .def_prop_ro("num_ops", &Program::num_ops)
      .def("run", &run, "token_ids"_a.noconvert(), "positions"_a.noconvert(), "slots"_a.noconvert(),
           "query_starts"_a.noconvert(), "context_lens"_a.noconvert(), "block_tables"_a.noconvert(),
           "sampled_rows"_a.noconvert(), "parents"_a.noconvert() = nb::none(), "states"_a.noconvert() = nb::none(),
           "op_seconds"_a.noconvert() = nb::none());
  bind_operations(program);
}

}  // namespace vivace
