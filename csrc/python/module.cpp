// The Python module `_native`: devices and the parameters that live on them. backends/cpu/_native.pyi has its types.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "device.h"
#include "dispatch.h"
#include "measure.h"
#include "python/arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vivace {
namespace {

using ByteRows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;

std::shared_ptr<Device> make_device(int num_threads, const std::string& isa) {
  const KernelTable* kernels = find_kernels(isa);
  if (!kernels) throw nb::value_error(("no kernels for instruction set '" + isa + "' on this machine").c_str());
  return std::make_shared<Device>(num_threads, *kernels);
}

Layout checked_layout(int layout) {
  if (layout < 0 || layout >= NUM_LAYOUTS) throw nb::value_error("unknown layout");
  return static_cast<Layout>(layout);
}

std::shared_ptr<Matrix> pack_from_python(Device& device, int layout, ByteRows stored, int64_t columns,
                                         const std::optional<Ints1>& input_order) {
  const Layout checked = checked_layout(layout);
  if (length(stored) < 1 || columns < 1) throw nb::value_error("an empty matrix");
  if (length(stored, 1) > 1 && stored.stride(1) != 1) throw nb::value_error("the bytes of a row must be contiguous");
  const uint8_t* data = stored.data();
  const int64_t rows = length(stored), stride = stored.stride(0);
  std::vector<int32_t> order = checked_order(input_order, columns);
  nb::gil_scoped_release release;
  return pack_matrix(device, checked, data, stride, rows, columns, std::move(order));
}

// One product outside any program, for tests and measurements of the kernels alone.
void linear_from_python(Device& device, const Matrix& matrix, Floats2 x, FloatsOut2 out) {
  const PackedMatrix& packed = matrix.packed;
  const int64_t num_rows = length(x);
  if (length(x, 1) != packed.columns || length(out, 1) != packed.rows || length(out) != num_rows) {
    throw nb::value_error("linear: shapes do not fit");
  }
  const LinearKernels& linear = device.kernels.linear;
  const Mapping scratch(linear.scratch_bytes(packed, num_rows));
  const float* from = x.data();
  float* to = out.data();
  nb::gil_scoped_release release;
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(num_rows, 1, [&](int64_t begin, int64_t end) {
    linear.prepare(packed, from, packed.columns, num_rows, scratch.data(), begin, end);
  });
  device.pool.parallel_for(output_blocks(packed.rows), 1, [&](int64_t begin, int64_t end) {
    linear.run(packed, from, packed.columns, scratch.data(), num_rows, to, packed.rows, nullptr, begin, end);
  });
}

void embedding_row_from_python(Device& device, const Matrix& matrix, int64_t row, float scale, FloatsOut1 out) {
  if (row < 0 || row >= matrix.packed.rows || length(out) != matrix.packed.columns) {
    throw nb::value_error("embedding_row: row or width out of range");
  }
  device.kernels.linear.embedding_row(matrix.packed, row, scale, out.data());
}

void tune_from_python(Device& device, int layout, int64_t fetch_distance, int64_t min_fetch_rows,
                      int64_t weight_panel_bytes, int64_t row_panel_bytes) {
  if (fetch_distance < 0 || min_fetch_rows < 1 || weight_panel_bytes < 1 || row_panel_bytes < 1) {
    throw nb::value_error("tune_linear: a size below its least");
  }
  const Layout checked = checked_layout(layout);
  const std::lock_guard turn(device.pool.turn());
  device.kernels.linear.tuning(checked) = {fetch_distance, min_fetch_rows, weight_panel_bytes, row_panel_bytes};
}

std::tuple<int64_t, int64_t, int64_t, int64_t> tuning_from_python(const Device& device, int layout) {
  const LinearTuning& tuning = device.kernels.linear.tuning(checked_layout(layout));
  return {tuning.fetch_distance, tuning.min_fetch_rows, tuning.weight_panel_bytes, tuning.row_panel_bytes};
}

double measure_linear_from_python(Device& device, const std::vector<std::shared_ptr<Matrix>>& matrices,
                                  int64_t num_rows) {
  if (num_rows < 1) throw nb::value_error("measure_linear: no rows");
  return measure_linear(device, matrices, num_rows);
}

double peak_from_python(Device& device, const std::string& kind, int64_t iterations) {
  const PeakKernels& peak = device.kernels.peak;
  double (*loop)(int64_t) = kind == "f32" ? peak.f32 : kind == "bf16" ? peak.bf16 : kind == "int8" ? peak.int8 : nullptr;
  if (!loop) throw nb::value_error("peak: f32, bf16 or int8");
  nb::gil_scoped_release release;
  return measure_peak(device, loop, iterations);
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported_kernels()) names.emplace_back(table->name);
  return names;
}

}  // namespace

std::vector<int32_t> checked_order(const std::optional<Ints1>& input_order, int64_t columns) {
  if (!input_order) return {};
  const std::vector<int32_t> order(input_order->data(), input_order->data() + length(*input_order));
  const auto inside = [&](int32_t input) { return input >= 0 && input < columns; };
  if (length(*input_order) != columns || !std::all_of(order.begin(), order.end(), inside)) {
    throw nb::value_error("input_order is not an order of the columns");
  }
  return order;
}

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // an interpreter that exits with an engine alive is no error worth a page of text
  module.def("isa_names", &isa_names);
  module.def("cpu_features", &cpu_features);

  nb::class_<Matrix>(module, "Matrix")
      .def_prop_ro("num_bytes", [](const Matrix& matrix) { return matrix.packed.num_bytes; });
  nb::class_<Vector>(module, "Vector").def_prop_ro("size", [](const Vector& vector) { return vector.size; });

  nb::class_<Device>(module, "Device")
      .def(nb::new_(&make_device), "num_threads"_a, "isa"_a = "")
      .def_prop_ro("num_threads", [](const Device& device) { return device.pool.size(); })
      .def_prop_ro("isa", [](const Device& device) { return device.kernels.name; })
      .def("pack", &pack_from_python, "layout"_a, "stored"_a.noconvert(), "columns"_a,
           "input_order"_a.noconvert() = nb::none())
      .def(
          "vector",
          [](Device& device, Floats1 values) { return copy_vector(device, values.data(), length(values)); },
          "values"_a.noconvert())
      .def("linear", &linear_from_python, "matrix"_a, "x"_a.noconvert(), "out"_a.noconvert())
      .def("embedding_row", &embedding_row_from_python, "matrix"_a, "row"_a, "scale"_a, "out"_a.noconvert())
      .def("measure_read_bandwidth", &measure_read_bandwidth, "num_bytes"_a, "repetitions"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("measure_barrier", &measure_barrier, "repetitions"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("tune_linear", &tune_from_python, "layout"_a, "fetch_distance"_a, "min_fetch_rows"_a,
           "weight_panel_bytes"_a, "row_panel_bytes"_a)
      .def("linear_tuning", &tuning_from_python, "layout"_a)
      .def("measure_linear", &measure_linear_from_python, "matrices"_a, "num_rows"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("measure_peak", &peak_from_python, "kind"_a, "iterations"_a);

  bind_packed(module);
  bind_program(module);
  bind_sampling(module);
}

}  // namespace vivace
