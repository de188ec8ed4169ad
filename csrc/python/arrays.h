// Arrays that Python hands over: type, rank, contiguity and device are checked by nanobind at the call.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <vector>

namespace vivace {

template <class Scalar, size_t rank>
using ContiguousArray = nanobind::ndarray<Scalar, nanobind::ndim<rank>, nanobind::c_contig, nanobind::device::cpu>;

using Floats1 = ContiguousArray<const float, 1>;
using Floats2 = ContiguousArray<const float, 2>;
using Ints1 = ContiguousArray<const int32_t, 1>;
using Words2 = ContiguousArray<const uint32_t, 2>;
using Ints2 = ContiguousArray<const int32_t, 2>;
using FloatsOut1 = ContiguousArray<float, 1>;
using FloatsOut2 = ContiguousArray<float, 2>;
using IntsOut1 = ContiguousArray<int32_t, 1>;
using IntsOut2 = ContiguousArray<int32_t, 2>;

template <class Array>
int64_t length(const Array& array, size_t axis = 0) {
  return static_cast<int64_t>(array.shape(axis));
}

// Empty, or an input of [0, columns) for each column; nb::value_error otherwise.
std::vector<int32_t> checked_order(const std::optional<Ints1>& input_order, int64_t columns);

void bind_packed(nanobind::module_& module);
void bind_program(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);

}  // namespace vivace
