// Operations on rows of activations.
#pragma once

#include "kernel_table.h"
#include "kernels/exponential.h"

namespace vivace::VIVACE_ISA {

// Four chains of sums hide the latency of an addition; their order depends on the width alone.
VIVACE_INLINE float sum_of_squares(const float* x, int64_t width) {
  V16 sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 64 <= width; i += 64) {
    for (int chain = 0; chain < 4; ++chain) {
      const V16 value = load(x + i + 16 * chain);
      sums[chain] = multiply_add(value, value, sums[chain]);
    }
  }
  for (; i < width; i += 16) {
    const V16 value = i + 16 <= width ? load(x + i) : load_first(x + i, width - i);
    sums[0] = multiply_add(value, value, sums[0]);
  }
  return horizontal_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline void rms_norm(Rows x, const float* weight, float eps, int64_t groups, Rows out, int64_t row_begin,
                     int64_t row_end) {
  const int64_t width = x.width / groups;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const float* from = x.data + row * x.stride + group * width;
      float* to = out.data + row * out.stride + group * width;
      const float mean = sum_of_squares(from, width) / static_cast<float>(width);
      const V16 factor = splat(1.0f / __builtin_sqrtf(mean + eps));
      int64_t i = 0;
      for (; i + 16 <= width; i += 16) store(to + i, load(from + i) * factor * load(weight + i));
      if (i < width) {
        const int64_t left = width - i;
        store_first(to + i, load_first(from + i, left) * factor * load_first(weight + i, left), left);
      }
    }
  }
}

// Sixteen pairs (or the first `count`) of one head. Product and sum are rounded apart, as published models do it.
VIVACE_INLINE void rotate_pairs(const float* from, const float* cosine, const float* sine, int64_t half, float* to,
                                int64_t count) {
  const bool whole = count == 16;
  const V16 a = whole ? load(from) : load_first(from, count);
  const V16 b = whole ? load(from + half) : load_first(from + half, count);
  const V16 c = whole ? load(cosine) : load_first(cosine, count);
  const V16 s = whole ? load(sine) : load_first(sine, count);
  const V16 first = a * c - b * s;
  const V16 second = b * c + a * s;
  if (whole) {
    store(to, first);
    store(to + half, second);
  } else {
    store_first(to, first, count);
    store_first(to + half, second, count);
  }
}

inline void rope(Rows x, Rows table, int64_t head_dim, Rows out, int64_t row_begin, int64_t row_end) {
  const int64_t half = table.width / 2;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* cosine = table.data + row * table.stride;
    const float* sine = cosine + half;
    for (int64_t head = 0; head < x.width; head += head_dim) {
      const float* from = x.data + row * x.stride + head;
      float* to = out.data + row * out.stride + head;
      for (int64_t i = 0; i < half; i += 16) {
        rotate_pairs(from + i, cosine + i, sine + i, half, to + i, half - i < 16 ? half - i : 16);
      }
      if (to != from && 2 * half < head_dim) {
        std::memcpy(to + 2 * half, from + 2 * half, static_cast<size_t>(head_dim - 2 * half) * sizeof(float));
      }
    }
  }
}

// out = function(x, y), element by element. The lanes of a partial vector compute as those of a whole one.
template <class Function>
VIVACE_INLINE void elementwise(Rows x, Rows y, Rows out, Range range, Function function) {
  for (int64_t row = range.row_begin; row < range.row_end; ++row) {
    const float* first = x.data + row * x.stride;
    const float* second = y.data + row * y.stride;
    float* to = out.data + row * out.stride;
    int64_t i = range.column_begin;
    for (; i + 16 <= range.column_end; i += 16) store(to + i, function(load(first + i), load(second + i)));
    if (i < range.column_end) {
      const int64_t left = range.column_end - i;
      store_first(to + i, function(load_first(first + i, left), load_first(second + i, left)), left);
    }
  }
}

inline void gated_activation(Rows gate_up, Activation activation, Rows out, Range range) {
  const Rows gate{gate_up.data, gate_up.stride, out.width};
  const Rows up{gate_up.data + out.width, gate_up.stride, out.width};
  switch (activation) {
    case Activation::SILU:
      return elementwise(gate, up, out, range, [](V16 x, V16 y) { return silu(x) * y; });
    case Activation::GELU:
      return elementwise(gate, up, out, range, [](V16 x, V16 y) { return gelu(x) * y; });
    case Activation::GELU_TANH:
      return elementwise(gate, up, out, range, [](V16 x, V16 y) { return gelu_tanh(x) * y; });
  }
}

inline void add(Rows x, Rows y, Rows out, Range range) {
  elementwise(x, y, out, range, [](V16 a, V16 b) { return a + b; });
}

inline void silu_residual(Rows x, Rows z, Rows out) {
  elementwise(x, z, out, {0, 1, 0, out.width}, [](V16 a, V16 b) { return a + silu(b); });
}

inline void softcap(Rows x, float cap, Rows out, Range range) {
  const V16 caps = splat(cap);
  elementwise(x, x, out, range, [=](V16 a, V16) { return hyperbolic_tangent(a / caps) * caps; });
}

inline void scale(Rows x, float factor, Rows out, Range range) {
  const V16 factors = splat(factor);
  elementwise(x, x, out, range, [=](V16 a, V16) { return a * factors; });
}

inline constexpr RowKernels ROW_KERNELS = {
    .rms_norm = rms_norm,
    .rope = rope,
    .gated_activation = gated_activation,
    .add = add,
    .silu_residual = silu_residual,
    .softcap = softcap,
    .scale = scale,
};

}  // namespace vivace::VIVACE_ISA
