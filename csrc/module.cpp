// The Python module `_native`: device, parameters, programs. Arguments are checked here and in backends/cpu.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "device.h"
#include "dispatch.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vivace {
namespace {

using Bytes2 = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut1 = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatsOut2 = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::shared_ptr<Device> make_device(int num_threads, const std::string& isa) {
  const KernelTable* kernels = find_kernels(isa);
  if (!kernels) throw nb::value_error(("no kernels for instruction set '" + isa + "' on this machine").c_str());
  return std::make_shared<Device>(num_threads, *kernels);
}

std::shared_ptr<Matrix> pack_from_python(Device& device, int layout, Bytes2 stored, int64_t columns) {
  if (layout < 0 || layout >= NUM_LAYOUTS) throw nb::value_error("unknown layout");
  if (stored.shape(1) > 1 && stored.stride(1) != 1) throw nb::value_error("rows must be contiguous");
  const uint8_t* data = stored.data();
  const auto rows = static_cast<int64_t>(stored.shape(0));
  const int64_t stride = stored.stride(0);
  nb::gil_scoped_release release;
  return pack_matrix(device, static_cast<Layout>(layout), data, stride, rows, columns);
}

void linear_from_python(Device& device, const Matrix& matrix, Floats2 x, FloatsOut2 out) {
  const PackedMatrix& packed = matrix.packed;
  if (static_cast<int64_t>(x.shape(1)) != packed.columns || static_cast<int64_t>(out.shape(1)) != packed.rows ||
      x.shape(0) != out.shape(0)) {
    throw nb::value_error("linear: shapes do not fit");
  }
  const auto num_rows = static_cast<int64_t>(x.shape(0));
  const LinearKernels& linear = device.kernels.linear;
  Mapping scratch(linear.scratch_bytes(packed, num_rows));
  const float* from = x.data();
  float* to = out.data();
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(num_rows, 1, [&](int64_t begin, int64_t end) {
    linear.prepare(packed, from, packed.columns, num_rows, scratch.data(), begin, end);
  });
  device.pool.parallel_for(output_blocks(packed.rows), 1, [&](int64_t begin, int64_t end) {
    linear.run(packed, from, packed.columns, scratch.data(), num_rows, to, packed.rows, nullptr, begin, end);
  });
}

void embedding_row_from_python(Device& device, const Matrix& matrix, int64_t row, float scale, FloatsOut1 out) {
  if (row < 0 || row >= matrix.packed.rows || static_cast<int64_t>(out.shape(0)) != matrix.packed.columns) {
    throw nb::value_error("embedding_row: row or width out of range");
  }
  device.kernels.linear.embedding_row(matrix.packed, row, scale, out.data());
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("isa_names", [] {
    std::vector<std::string> names;
    for (const KernelTable* table : supported_kernels()) names.emplace_back(table->name);
    return names;
  });
  module.def("cpu_features", &cpu_features);

  nb::class_<Matrix>(module, "Matrix")
      .def_prop_ro("num_bytes", [](const Matrix& matrix) { return matrix.packed.num_bytes; });
  nb::class_<Vector>(module, "Vector").def_prop_ro("size", [](const Vector& vector) { return vector.size; });

  nb::class_<Device>(module, "Device")
      .def(nb::new_(&make_device), "num_threads"_a, "isa"_a = "")
      .def_prop_ro("num_threads", [](const Device& device) { return device.pool.size(); })
      .def_prop_ro("isa", [](const Device& device) { return device.kernels.name; })
      .def("pack", &pack_from_python, "layout"_a, "stored"_a, "columns"_a)
      .def("vector", [](Device& device, Floats1 values) {
        return copy_vector(device, values.data(), static_cast<int64_t>(values.shape(0)));
      }, "values"_a)
      .def("linear", &linear_from_python, "matrix"_a, "x"_a, "out"_a)
      .def("embedding_row", &embedding_row_from_python, "matrix"_a, "row"_a, "scale"_a, "out"_a);
}

}  // namespace vivace
