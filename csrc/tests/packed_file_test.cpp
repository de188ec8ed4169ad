// Packed matrices in a file, mapped and copied, and the encoders, at sizes that end inside every unit of work.
#include "packed_file.h"

#include <stdio.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "encode.h"
#include "tests/check.h"
#include "tests/random.h"

namespace vivace {
namespace {

struct TemporaryFile {
  explicit TemporaryFile(const std::vector<uint8_t>& content) : file(tmpfile()) {
    CHECK(file && fwrite(content.data(), 1, content.size(), file) == content.size() && fflush(file) == 0);
  }
  ~TemporaryFile() { fclose(file); }
  int descriptor() const { return fileno(file); }

  FILE* file;
};

bool same(const Matrix& matrix, const uint8_t* bytes) {
  return std::memcmp(matrix.packed.data, bytes, matrix.packed.num_bytes) == 0;
}

}  // namespace

VIVACE_TEST(packed_matrices_come_back_from_a_file_and_only_whole) {
  constexpr int64_t OFFSET = 4096;
  for (int num_threads : {1, 3}) {
    Device device(num_threads, *supported_kernels().front());
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{5, 33}, {100, 5000}, {700, 1500}}) {
      const size_t num_bytes = packed_bytes(Layout::F16, rows, columns);
      const std::vector<uint8_t> content = tests::random_bytes(OFFSET + static_cast<int64_t>(num_bytes), 7);
      const uint64_t checksum = packed_checksum(device, content.data() + OFFSET, num_bytes);
      std::shared_ptr<Matrix> mapped, copied;
      {
        const TemporaryFile temporary(content);
        const PackedFile file(temporary.descriptor());
        file.touch(64);
        mapped = file.matrix(device, Layout::F16, rows, columns, OFFSET, checksum, false, {1, 0});
        copied = file.matrix(device, Layout::F16, rows, columns, OFFSET, checksum, true);
        for (bool copy : {false, true}) {
          CHECK(!file.matrix(device, Layout::F16, rows, columns, OFFSET, checksum + 1, copy));
          CHECK(!file.matrix(device, Layout::F16, rows, columns, OFFSET + 1, checksum, copy));
          CHECK(!file.matrix(device, Layout::F16, rows, columns, INT64_MAX, checksum, copy));
        }
      }
      CHECK(mapped && same(*mapped, content.data() + OFFSET) && mapped->packed.input_order[0] == 1);
      CHECK(copied && same(*copied, content.data() + OFFSET) && !copied->packed.input_order);
      const std::shared_ptr<Matrix> again = copy_matrix(device, *mapped);
      mapped.reset();
      CHECK(same(*again, content.data() + OFFSET) && again->packed.input_order[0] == 1);
    }
  }
}

VIVACE_TEST(encoders_write_their_rows_and_refuse_what_is_not_finite) {
  Device device(2, *supported_kernels().front());
  constexpr int64_t ROWS = 7, COLUMNS = 96;
  std::vector<float> values = tests::random_floats(ROWS * COLUMNS, 5);
  for (const auto& [to, block] : {std::pair<Layout, size_t>{Layout::Q8_0, 34}, {Layout::Q4_0, 18}}) {
    std::vector<uint8_t> out(ROWS * COLUMNS / 32 * block);
    const auto encode = [&] {
      return encode_blocks(device, Layout::F32, reinterpret_cast<const uint8_t*>(values.data()), COLUMNS * 4, ROWS,
                           COLUMNS, to, out.data());
    };
    CHECK(encode());
    const float kept = std::exchange(values[200], HUGE_VALF);
    CHECK(!encode());
    values[200] = NAN;
    CHECK(!encode());
    values[200] = kept;
  }
  const std::vector<uint8_t> halves = tests::random_bytes(ROWS * COLUMNS * 2, 9);
  std::vector<uint8_t> out(ROWS * COLUMNS / 32 * 34);
  for (Layout from : {Layout::F16, Layout::BF16}) {
    encode_blocks(device, from, halves.data(), COLUMNS * 2, ROWS, COLUMNS, Layout::Q8_0, out.data());
  }
}

}  // namespace vivace
