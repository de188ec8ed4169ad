// What a packed matrix is, and the functions that make and read one.
//
// Shape letters: N rows of the matrix (outputs), K columns (inputs), M rows of activations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vivace {

// One packed layout for each stored encoding, in the order of LAYOUTS in backends/cpu/backend.py.
enum class Layout : int { F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, INT4_G32, INT4_G64, INT4_G128,
                          INT8_CHANNEL, INT8_OUTLIER };
inline constexpr int NUM_LAYOUTS = 16;

// Outputs are computed in blocks of 16 rows of the matrix; the last block may be partial (N % 16 rows).
inline constexpr int64_t OUTPUT_BLOCK = 16;

inline int64_t output_blocks(int64_t rows) { return (rows + OUTPUT_BLOCK - 1) / OUTPUT_BLOCK; }

struct PackedMatrix {
  Layout layout;
  int64_t rows;         // N
  int64_t columns;      // K
  const uint8_t* data;  // aligned to 64 bytes
  size_t num_bytes;     // packed_bytes(layout, rows, columns)
  // Null, or K numbers: packed column k is multiplied by x[input_order[k]].
  const int32_t* input_order = nullptr;
};

// The same packed bytes serve every instruction set. Defined in linear/pack.cpp.

// Bytes of a packed matrix [N, K]. Must include any padding that a kernel reads past the last block.
size_t packed_bytes(Layout layout, int64_t rows, int64_t columns);

// Packs output blocks [block_begin, block_end) of the matrix whose row n begins at stored_rows + n * row_stride, in
// the stored encoding of the same name, into the packed matrix that begins at `packed`. Threads share one matrix by
// taking disjoint block ranges. `packed` is zero before the first call.
void pack(Layout layout, const uint8_t* stored_rows, int64_t row_stride, int64_t rows, int64_t columns, uint8_t* packed,
          int64_t block_begin, int64_t block_end);

// What may be chosen by measurement, for one layout. No result depends on it.
struct LinearTuning {
  int64_t fetch_distance = 16 << 10;  // how many bytes ahead of what it reads a single tile of rows asks memory for
  int64_t min_fetch_rows = 3;         // the rows from which it does
  // One set of weight blocks and one set of row tiles, kept in the second-level cache (1 MiB on Zen 4) while every pair
  // of them is computed.
  int64_t weight_panel_bytes = 384 << 10;
  int64_t row_panel_bytes = 256 << 10;
};

// The functions of one instruction set; members of KernelTable.
struct LinearKernels {
  // Which prepared form of the activations the layout's kernel reads. 0: the float32 rows themselves, nothing to
  // prepare. Matrices of one kind, K and input order share one scratch.
  int (*activation_kind)(Layout layout);

  // Bytes of scratch that M prepared rows need.
  size_t (*scratch_bytes)(const PackedMatrix& matrix, int64_t num_rows);

  // Prepares rows [row_begin, row_end) of x (quantises them to int8 per group, rounds to bf16, ...) into scratch, which
  // is aligned to 64 bytes. A prepared row must not depend on other rows.
  void (*prepare)(const PackedMatrix& matrix, const float* x, int64_t ldx, int64_t num_rows, uint8_t* scratch,
                  int64_t row_begin, int64_t row_end);

  // y[m, n] = sum_k x[m, k] * W[n, k] + bias[n] for all m < num_rows and the outputs n of blocks
  // [block_begin, block_end). The sum's order depends on the matrix alone: not on num_rows, m or the block range.
  // Writes nothing outside those outputs. ldx and ldy count elements. bias may be null.
  void (*run)(const PackedMatrix& matrix, const float* x, int64_t ldx, const uint8_t* scratch, int64_t num_rows,
              float* y, int64_t ldy, const float* bias, int64_t block_begin, int64_t block_end);

  // out[input_order[k]] = W[row, k] * scale.
  void (*embedding_row)(const PackedMatrix& matrix, int64_t row, float scale, float* out);

  // Of this instruction set in this process. Not to be changed while a product runs.
  LinearTuning& (*tuning)(Layout layout);
};

}  // namespace vivace
