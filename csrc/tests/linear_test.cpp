// Packs and multiplies random bytes in every layout: any 16-bit pattern may be a scale, so values are not checked here
// (tests/ops does), only that nothing is read or written outside its buffer and that threads may share the work.
#include "linear.h"

#include <cstring>
#include <vector>

#include "dispatch.h"
#include "tests/check.h"
#include "tests/random.h"

namespace vivace {
namespace {

struct StoredBlock {
  Layout layout;
  int64_t elements, bytes;
};

constexpr StoredBlock STORED[NUM_LAYOUTS] = {
    {Layout::F32, 1, 4},    {Layout::F16, 1, 2},    {Layout::BF16, 1, 2},     {Layout::Q8_0, 32, 34},
    {Layout::Q4_0, 32, 18}, {Layout::Q4_1, 32, 20}, {Layout::Q5_0, 32, 22},   {Layout::Q5_1, 32, 24},
    {Layout::Q4_K, 256, 144}, {Layout::Q5_K, 256, 176}, {Layout::Q6_K, 256, 210},
};

// A buffer of exactly `count` bytes at an address aligned to 64, so that the sanitizer sees the first byte past it.
struct Exact {
  explicit Exact(size_t count) : data(static_cast<uint8_t*>(::operator new(count, std::align_val_t{64}))) {
    std::memset(data, 0, count);
  }
  ~Exact() { ::operator delete(data, std::align_val_t{64}); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  uint8_t* data;
};

void multiply(const KernelTable& kernels, const PackedMatrix& matrix, int64_t num_rows, int64_t pieces) {
  const std::vector<float> x = tests::random_floats(num_rows * matrix.columns, 1);
  std::vector<float> y(static_cast<size_t>(num_rows * matrix.rows), 7.0f);
  const Exact scratch(kernels.linear.scratch_bytes(matrix, num_rows));
  for (int64_t row = 0; row < num_rows; ++row) {
    kernels.linear.prepare(matrix, x.data(), matrix.columns, num_rows, scratch.data, row, row + 1);
  }
  const int64_t blocks = output_blocks(matrix.rows);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    kernels.linear.run(matrix, x.data(), matrix.columns, scratch.data, num_rows, y.data(), matrix.rows, nullptr,
                       blocks * piece / pieces, blocks * (piece + 1) / pieces);
  }
  std::vector<float> row(static_cast<size_t>(matrix.columns));
  kernels.linear.embedding_row(matrix, matrix.rows - 1, 2.0f, row.data());
}

}  // namespace

VIVACE_TEST(linear_stays_inside_its_buffers) {
  for (const StoredBlock& stored : STORED) {
    for (int64_t rows : {1, 16, 23, 50}) {
      for (int64_t blocks : {1, 3, 5}) {
        const int64_t columns = blocks * (stored.elements == 1 ? 43 : stored.elements);
        const int64_t row_bytes = columns / stored.elements * stored.bytes;
        const std::vector<uint8_t> bytes = tests::random_bytes(rows * row_bytes, 2);
        const size_t num_bytes = packed_bytes(stored.layout, rows, columns);
        const Exact packed(num_bytes);
        for (int64_t block = 0; block < output_blocks(rows); ++block) {
          pack(stored.layout, bytes.data(), row_bytes, rows, columns, packed.data, block, block + 1);
        }
        const PackedMatrix matrix{stored.layout, rows, columns, packed.data, num_bytes};
        for (const KernelTable* kernels : supported_kernels()) {
          for (int64_t num_rows : {1, 2, 5, 19}) multiply(*kernels, matrix, num_rows, num_rows % 3 + 1);
        }
      }
    }
  }
}

}  // namespace vivace
