// The kernels of one instruction set. The files of isa/, compiled once for each, fill one table; dispatch.h chooses once.
//
// Every function works on a range of rows or items and never on a whole operation, so that callers can share the
// work among threads in any way: no result depends on the ranges.
#pragma once

#include "attention.h"
#include "linear.h"

namespace vivace {

enum class Activation : int { SILU, GELU, GELU_TANH };

// Row r of a matrix of activations begins at data + r * stride.
struct Rows {
  float* data;
  int64_t stride;
  int64_t width;
};

// A rectangle of a matrix: elementwise operations are shared by columns too when there are few rows.
struct Range {
  int64_t row_begin, row_end;
  int64_t column_begin, column_end;
};

// What each means is in ops/program.py. `out` may be the same rows as x.
struct RowKernels {
  void (*rms_norm)(Rows x, const float* weight, float eps, int64_t groups, Rows out, int64_t row_begin,
                   int64_t row_end);
  void (*rope)(Rows x, Rows table, int64_t head_dim, Rows out, int64_t row_begin, int64_t row_end);
  void (*gated_activation)(Rows gate_up, Activation activation, Rows out, Range range);
  void (*add)(Rows x, Rows y, Rows out, Range range);
  // out = x + silu(z), one row.
  void (*silu_residual)(Rows x, Rows z, Rows out);
  void (*softcap)(Rows x, float cap, Rows out, Range range);
  void (*scale)(Rows x, float factor, Rows out, Range range);
};

// Passes over one row of logits.
struct LogitKernels {
  // The largest logit; *is_broken tells whether any is NaN or +inf.
  float (*maximum)(const float* logits, int64_t count, bool* is_broken);
  // out[i] = exp((logits[i] - shift) * factor); returns their sum. out may be null.
  double (*exponentials)(const float* logits, int64_t count, float shift, float factor, float* out);
  // out[i] = logits[i] where bit i % 32 of mask[i / 32] is set, else -inf.
  void (*masked)(const float* logits, const uint32_t* mask, int64_t count, float* out);
};

// Loops that measure what this instruction set can reach at most. Each returns the operations done (a multiply-add
// counts two), or 0 where the instruction set has no such unit.
struct PeakKernels {
  double (*f32)(int64_t iterations);
  double (*bf16)(int64_t iterations);
  double (*int8)(int64_t iterations);
  float (*read)(const uint8_t* data, int64_t num_bytes);  // num_bytes: a multiple of 1024
};

struct KernelTable {
  const char* name;
  const LinearKernels& linear;
  const AttentionKernels& attention;
  RowKernels rows;
  LogitKernels logits;
  PeakKernels peak;
};

}  // namespace vivace
