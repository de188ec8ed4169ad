// Every layout on every instruction set that this machine runs, in buffers of the exact size, so that the sanitizers see
// a read or a write past the end.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dispatch.h"
#include "linear.h"
#include "linear/geometry.h"
#include "tests/check.h"

namespace vivace {
namespace {

struct Free {
  void operator()(uint8_t* bytes) const { std::free(bytes); }
};

using Bytes = std::unique_ptr<uint8_t[], Free>;

// Aligned to 64; the allocator wants a multiple of 64, which packed sizes are.
Bytes exact_bytes(size_t count) {
  const size_t rounded = (count + 63) / 64 * 64;
  Bytes bytes(static_cast<uint8_t*>(std::aligned_alloc(64, rounded)));
  std::memset(bytes.get(), 0, rounded);
  return bytes;
}

struct Shape {
  int64_t rows;
  int64_t columns;
};

struct StoredSize {
  int inputs;
  int bytes;
  int header = 0;  // of a row

  int64_t row_bytes(int64_t columns) const { return header + columns / inputs * bytes; }
};

StoredSize stored_size(Layout layout) {
  if (layout == Layout::F32) return {1, 4};
  if (is_dense(layout)) return {1, 2};
  if (is_int8_row(layout)) return {1, 1, 4};
  return {block_geometry(layout).stored_inputs, block_geometry(layout).stored_bytes};
}

// Bytes below 0x40 make neither infinities nor NaN in any format.
std::vector<uint8_t> random_stored(Layout layout, Shape shape) {
  std::mt19937 random(static_cast<unsigned>(shape.rows * 1000 + shape.columns));
  const StoredSize size = stored_size(layout);
  std::vector<uint8_t> stored(static_cast<size_t>(shape.rows * size.row_bytes(shape.columns)));
  for (uint8_t& byte : stored) byte = static_cast<uint8_t>(random() & 0x3f);
  return stored;
}

std::vector<float> random_rows(int64_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(count));
  for (float& value : rows) value = random() % 64 == 0 ? 7.0f : normal(random);  // outliers too
  return rows;
}

std::vector<int32_t> reversed_order(int64_t columns) {
  std::vector<int32_t> order(static_cast<size_t>(columns));
  for (size_t k = 0; k < order.size(); ++k) order[k] = static_cast<int32_t>(order.size() - 1 - k);
  return order;
}

std::vector<float> product(const LinearKernels& linear, const PackedMatrix& matrix, const float* x, int64_t num_rows) {
  const Bytes scratch = exact_bytes(linear.scratch_bytes(matrix, num_rows));
  std::vector<float> y(static_cast<size_t>(num_rows * matrix.rows));
  const int64_t half = num_rows / 2, blocks = output_blocks(matrix.rows);
  for (const auto [begin, end] : {Shape{half, num_rows}, Shape{0, half}}) {
    linear.prepare(matrix, x, matrix.columns, num_rows, scratch.get(), begin, end);
  }
  for (const auto [begin, end] : {Shape{blocks / 2, blocks}, Shape{0, blocks / 2}}) {
    linear.run(matrix, x, matrix.columns, scratch.get(), num_rows, y.data(), matrix.rows, nullptr, begin, end);
  }
  return y;
}

void check_products(const LinearKernels& linear, const PackedMatrix& matrix) {
  constexpr int64_t MOST_ROWS = 26;
  const std::vector<float> x = random_rows(MOST_ROWS * matrix.columns);
  const std::vector<float> all = product(linear, matrix, x.data(), MOST_ROWS);
  for (int64_t num_rows = 1; num_rows < MOST_ROWS; ++num_rows) {
    const std::vector<float> some = product(linear, matrix, x.data(), num_rows);
    CHECK(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)) == 0);
  }
  std::vector<float> weights(static_cast<size_t>(matrix.columns));
  for (int64_t n = 0; n < matrix.rows; ++n) {
    linear.embedding_row(matrix, n, 1.0f, weights.data());
    double exact = 0.0, magnitude = 0.0;
    for (size_t k = 0; k < weights.size(); ++k) {
      exact += double{x[k]} * double{weights[k]};
      magnitude += std::fabs(double{x[k]} * double{weights[k]}) + std::fabs(double{weights[k]});
    }
    CHECK(std::fabs(double{all[static_cast<size_t>(n)]} - exact) <= 0.03 * magnitude);  // half a step of 7 / 127
  }
}

}  // namespace

VIVACE_TEST(linear_products_agree_with_embedding_rows_in_any_batch) {
  for (int i = 0; i < NUM_LAYOUTS; ++i) {
    const auto layout = static_cast<Layout>(i);
    const StoredSize size = stored_size(layout);
    for (const Shape shape : {Shape{1, size.inputs}, Shape{16, 3 * size.inputs}, Shape{37, 2 * size.inputs}}) {
      const std::vector<uint8_t> stored = random_stored(layout, shape);
      const size_t num_bytes = packed_bytes(layout, shape.rows, shape.columns);
      const Bytes packed = exact_bytes(num_bytes);
      const int64_t blocks = output_blocks(shape.rows);
      const int64_t stride = size.row_bytes(shape.columns);
      for (int64_t block = blocks - 1; block >= 0; --block) {
        pack(layout, stored.data(), stride, shape.rows, shape.columns, packed.get(), block, block + 1);
      }
      const std::vector<int32_t> reversed = reversed_order(shape.columns);
      for (const int32_t* order : {static_cast<const int32_t*>(nullptr), reversed.data()}) {
        const PackedMatrix matrix{layout, shape.rows, shape.columns, packed.get(), num_bytes, order};
        for (const KernelTable* table : supported_kernels()) check_products(table->linear, matrix);
      }
    }
  }
}

}  // namespace vivace
