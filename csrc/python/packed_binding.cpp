// Packed matrices as bytes, and the encoders whose output is packed.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "encode.h"
#include "packed_file.h"
#include "python/arrays.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vivace {
namespace {

using ByteRows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;
using BytesOut2 = ContiguousArray<uint8_t, 2>;
using PackedBytes = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;

constexpr int64_t MAX_ELEMENTS = int64_t{1} << 40;

PackedBytes packed_data(nb::handle_t<Matrix> handle) {
  const PackedMatrix& packed = nb::cast<const Matrix&>(handle).packed;
  return PackedBytes(packed.data, {packed.num_bytes}, handle);
}

using Order = nb::ndarray<nb::numpy, const int32_t, nb::ndim<1>>;

std::optional<Order> packed_order(nb::handle_t<Matrix> handle) {
  const auto& order = nb::cast<const Matrix&>(handle).input_order;
  if (!order) return std::nullopt;
  return Order(order->data(), {order->size()}, handle);
}

PackedBytes bytes_of_file(nb::handle_t<PackedFile> handle, int64_t offset, int64_t num_bytes) {
  const PackedFile& file = nb::cast<const PackedFile&>(handle);
  const auto size = static_cast<int64_t>(file.num_bytes());
  if (offset < 0 || num_bytes < 1 || offset > size || num_bytes > size - offset) {
    throw nb::value_error("behind the end of the file");
  }
  return PackedBytes(file.data() + offset, {static_cast<size_t>(num_bytes)}, handle);
}

uint64_t checksum_from_python(Device& device, ContiguousArray<const uint8_t, 1> bytes) {
  const uint8_t* data = bytes.data();
  const auto num_bytes = static_cast<size_t>(length(bytes));
  nb::gil_scoped_release release;
  return packed_checksum(device, data, num_bytes);
}

std::shared_ptr<Matrix> matrix_of_file(const PackedFile& file, Device& device, int layout, int64_t rows,
                                       int64_t columns, int64_t offset, uint64_t checksum, bool copied,
                                       const std::optional<Ints1>& input_order) {
  if (layout < 0 || layout >= NUM_LAYOUTS) throw nb::value_error("unknown layout");
  if (rows < 1 || columns < 1 || rows > MAX_ELEMENTS / columns || offset < 0 || offset % 64) {
    throw nb::value_error("impossible sizes");
  }
  std::vector<int32_t> order = checked_order(input_order, columns);
  nb::gil_scoped_release release;
  return file.matrix(device, static_cast<Layout>(layout), rows, columns, offset, checksum, copied, std::move(order));
}

bool encode_from_python(Device& device, int from, ByteRows stored, int64_t columns, int to, BytesOut2 out) {
  const bool is_float = from >= 0 && from <= static_cast<int>(Layout::BF16);
  const auto encoding = static_cast<Layout>(to);
  if (!is_float || (encoding != Layout::Q8_0 && encoding != Layout::Q4_0)) {
    throw nb::value_error("encode: from f32, f16 or bf16 to q8_0 or q4_0");
  }
  const int64_t rows = length(stored), stride = stored.stride(0);
  const int64_t element_bytes = static_cast<Layout>(from) == Layout::F32 ? 4 : 2;
  if (columns < 32 || columns % 32 || length(stored, 1) != columns * element_bytes || stored.stride(1) != 1 ||
      length(out) != rows || length(out, 1) != columns / 32 * (encoding == Layout::Q8_0 ? 34 : 18)) {
    throw nb::value_error("encode: shapes do not fit");
  }
  const uint8_t* data = stored.data();
  uint8_t* encoded = out.data();
  nb::gil_scoped_release release;
  return encode_blocks(device, static_cast<Layout>(from), data, stride, rows, columns, encoding, encoded);
}

}  // namespace

void bind_packed(nb::module_& module) {
  module.def("packed_version", [] { return VIVACE_PACKED_VERSION; });
  module.def("packed_data", &packed_data, "matrix"_a);
  module.def("packed_order", &packed_order, "matrix"_a);
  module.def("checksum", &checksum_from_python, "device"_a, "data"_a.noconvert());
  nb::class_<PackedFile>(module, "PackedFile")
      .def(nb::init<int>(), "file"_a)
      .def_prop_ro("address", [](const PackedFile& file) { return reinterpret_cast<uintptr_t>(file.data()); })
      .def("touch", &PackedFile::touch, "count"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("matrix", &matrix_of_file, "device"_a, "layout"_a, "rows"_a, "columns"_a, "offset"_a, "checksum"_a,
           "copied"_a, "input_order"_a.noconvert() = nb::none())
      .def("bytes", &bytes_of_file, "offset"_a, "num_bytes"_a);
  module.def("copy_packed", &copy_matrix, "device"_a, "matrix"_a, nb::call_guard<nb::gil_scoped_release>());
  module.def("encode", &encode_from_python, "device"_a, "from_layout"_a, "stored"_a.noconvert(), "columns"_a,
             "to_layout"_a, "out"_a.noconvert());
}

}  // namespace vivace
