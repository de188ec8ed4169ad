// Products of a program: shared by columns where rows are few, by rows where they are many, with equal bits.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dispatch.h"
#include "linear/geometry.h"
#include "program.h"
#include "tests/check.h"
#include "tests/random.h"

namespace vivace {
namespace {

constexpr int64_t MAX_TOKENS = 150, OUTPUTS = 40, BLOCK_SIZE = 16;

// Bytes below 0x40 make neither infinities nor NaN in any format.
std::vector<uint8_t> stored_rows(Layout layout, int64_t columns) {
  std::mt19937 random(5);
  const BlockGeometry geometry = block_geometry(layout);
  const int64_t row_bytes = is_dense(layout)      ? columns * (layout == Layout::F32 ? 4 : 2)
                            : is_int8_row(layout) ? 4 + columns
                                                  : columns / geometry.stored_inputs * geometry.stored_bytes;
  std::vector<uint8_t> stored(static_cast<size_t>(OUTPUTS * row_bytes));
  for (uint8_t& byte : stored) byte = static_cast<uint8_t>(random() & 0x3f);
  return stored;
}

// Token t's row of a table, times two matrices of one layout that share the prepared rows.
struct Fixture {
  Fixture(const KernelTable& kernels, int num_threads, Layout layout, int64_t columns, const std::vector<float>& rows)
      : device(std::make_shared<Device>(num_threads, kernels)),
        cache(std::make_shared<KVCache>(KVDtype::F32, 1, 1, 8, BLOCK_SIZE, MAX_TOKENS / BLOCK_SIZE + 1)),
        program(device, cache, MAX_TOKENS, 1, MAX_TOKENS * (columns + 2 * OUTPUTS)) {
    const auto table = pack_matrix(*device, Layout::F32, reinterpret_cast<const uint8_t*>(rows.data()), columns * 4,
                                   MAX_TOKENS, columns);
    const std::vector<uint8_t> stored = stored_rows(layout, columns);
    const auto matrix = pack_matrix(*device, layout, stored.data(), static_cast<int64_t>(stored.size()) / OUTPUTS,
                                    OUTPUTS, columns);
    const Place x{0, columns, columns, false}, out{MAX_TOKENS * columns, 2 * OUTPUTS, 2 * OUTPUTS, false};
    program.append(EmbeddingOp{table, 1.0f, x});
    LinearOp linear{.x = x, .parts = {}, .out = out, .thread_blocks = {}, .weight_bytes = 0};
    for (int part = 0; part < 2; ++part) {
      linear.parts.push_back(
          {.matrix = matrix, .bias = nullptr, .column = 0, .first_block = 0, .scratch = 0, .prepares = false});
    }
    program.append(linear);
    program.set_output(out);
  }

  // Tokens `first` and on, as the first of a sequence.
  std::vector<float> run(int32_t first, int32_t count) {
    std::vector<int32_t> tokens, places, blocks;
    for (int32_t i = 0; i < count; ++i) tokens.push_back(first + i), places.push_back(i);
    for (int32_t i = 0; i < MAX_TOKENS / BLOCK_SIZE + 1; ++i) blocks.push_back(i);
    const std::vector<int32_t> starts{0, count};
    program.run({.num_tokens = count,
                 .num_sampled = 0,
                 .num_sequences = 1,
                 .token_ids = tokens.data(),
                 .positions = places.data(),
                 .slots = places.data(),
                 .query_starts = starts.data(),
                 .context_lens = &count,
                 .block_tables = blocks.data(),
                 .table_width = static_cast<int64_t>(blocks.size()),
                 .sampled_rows = nullptr});
    std::vector<float> values;
    for (int64_t row = 0; row < count; ++row) {
      const float* from = program.data(program.output()) + row * program.output().stride;
      values.insert(values.end(), from, from + program.output().width);
    }
    return values;
  }

  std::shared_ptr<Device> device;
  std::shared_ptr<KVCache> cache;
  Program program;
};

}  // namespace

VIVACE_TEST(products_have_equal_bits_however_rows_are_shared) {
  for (const KernelTable* kernels : supported_kernels()) {
    for (Layout layout : {Layout::F32, Layout::BF16, Layout::Q8_0, Layout::Q4_0, Layout::Q4_K, Layout::Q6_K,
                          Layout::INT4_G32, Layout::INT8_CHANNEL, Layout::INT8_OUTLIER}) {
      const int64_t columns = is_dense(layout) ? 37 : block_geometry(layout).is_k_type() ? 256 : 160;
      std::vector<float> rows = tests::random_floats(MAX_TOKENS * columns, 7);
      for (size_t i = 0; i < rows.size(); i += 61) rows[i] *= 20.0f;  // outliers
      Fixture alone(*kernels, 1, layout, columns, rows);
      std::vector<float> expected;
      for (int32_t token = 0; token < MAX_TOKENS; ++token) {
        const std::vector<float> row = alone.run(token, 1);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      for (int num_threads : {1, 2, 3, 5}) {
        Fixture together(*kernels, num_threads, layout, columns, rows);
        for (int32_t count : {5, 31, 32, 33, 47, 64, 100, 150}) {
          const std::vector<float> actual = together.run(MAX_TOKENS - count, count);
          const float* from = expected.data() + (MAX_TOKENS - count) * 2 * OUTPUTS;
          CHECK(std::memcmp(actual.data(), from, actual.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

}  // namespace vivace
