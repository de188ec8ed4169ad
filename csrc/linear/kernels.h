// The linear kernels of one instruction set; included by isa/table.h.
#pragma once

#include "linear.h"

namespace vivace::VIVACE_ISA {

inline int activation_kind(Layout) { return 0; }

inline size_t scratch_bytes(const PackedMatrix&, int64_t) { return 0; }

inline void prepare(const PackedMatrix&, const float*, int64_t, int64_t, uint8_t*, int64_t, int64_t) {}

inline void run_linear(const PackedMatrix& matrix, const float* x, int64_t ldx, const uint8_t*, int64_t num_rows,
                       float* y, int64_t ldy, const float* bias, int64_t block_begin, int64_t block_end) {
  const float* weights = reinterpret_cast<const float*>(matrix.data);
  const int64_t end = block_end * OUTPUT_BLOCK < matrix.rows ? block_end * OUTPUT_BLOCK : matrix.rows;
  for (int64_t m = 0; m < num_rows; ++m) {
    for (int64_t n = block_begin * OUTPUT_BLOCK; n < end; ++n) {
      float sum = 0.0f;
      for (int64_t k = 0; k < matrix.columns; ++k) sum += x[m * ldx + k] * weights[n * matrix.columns + k];
      y[m * ldy + n] = bias ? sum + bias[n] : sum;
    }
  }
}

inline void embedding_row(const PackedMatrix& matrix, int64_t row, float scale, float* out) {
  const float* weights = reinterpret_cast<const float*>(matrix.data) + row * matrix.columns;
  for (int64_t k = 0; k < matrix.columns; ++k) out[k] = weights[k] * scale;
}

inline constexpr LinearKernels LINEAR_KERNELS = {
    .activation_kind = activation_kind,
    .scratch_bytes = scratch_bytes,
    .prepare = prepare,
    .run = run_linear,
    .embedding_row = embedding_row,
};

}  // namespace vivace::VIVACE_ISA
