// Runs a layer's worth of operations over a paged cache, against attention in double precision.
#include "program.h"

#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "tests/check.h"
#include "tests/random.h"

namespace vivace {
namespace {

constexpr int64_t HEADS = 6, KV_HEADS = 2, MAX_TOKENS = 700;

struct Case {
  int64_t head_dim;
  KVDtype dtype;
  int64_t window;
  int64_t num_tokens;
  int64_t block_size = 5;
  double tolerance = 1e-5;
};

// A program whose embedding row t is [q | k | v] of token t; its output is the attention's.
struct Fixture {
  Fixture(const KernelTable& kernels, int num_threads, const Case& c)
      : block_size(c.block_size),
        width((HEADS + 2 * KV_HEADS) * c.head_dim),
        rows(tests::random_floats(c.num_tokens * width, 3)),
        device(std::make_shared<Device>(num_threads, kernels)),
        cache(std::make_shared<KVCache>(c.dtype, 1, KV_HEADS, c.head_dim, c.block_size, num_blocks(c))),
        program(device, cache, MAX_TOKENS, 4, MAX_TOKENS * (width + HEADS * c.head_dim)) {
    const auto table = pack_matrix(*device, Layout::F32, reinterpret_cast<const uint8_t*>(rows.data()), width * 4,
                                   c.num_tokens, width);
    const int64_t q = HEADS * c.head_dim, kv = KV_HEADS * c.head_dim;
    program.append(EmbeddingOp{table, 1.0f, {0, width, width, false}});
    program.append(KVWriteOp{{q, width, kv, false}, {q + kv, width, kv, false}, 0});
    const Place out{MAX_TOKENS * width, q, q, false};
    program.append(AttentionOp{{0, width, q, false}, 0, HEADS, 0.125f, c.window, 0.0f, out});
    program.set_output(out);
    for (int32_t i = 0; i < num_blocks(c); ++i) table_of_blocks.push_back(static_cast<int32_t>(num_blocks(c)) - 1 - i);
    table_of_blocks.push_back(0);  // for steps that are too long: the program must refuse them, not this table's end
  }

  static int64_t num_blocks(const Case& c) { return (c.num_tokens + c.block_size - 1) / c.block_size; }

  void run(int64_t begin, int64_t end) {
    std::vector<int32_t> positions, slots;
    for (int64_t position = begin; position < end; ++position) {
      positions.push_back(static_cast<int32_t>(position));
      slots.push_back(static_cast<int32_t>(table_of_blocks[static_cast<size_t>(position / block_size)] * block_size +
                                           position % block_size));
    }
    const std::vector<int32_t> starts{0, static_cast<int32_t>(end - begin)};
    const auto context = static_cast<int32_t>(end);
    program.run({.num_tokens = end - begin,
                 .num_sampled = 0,
                 .num_sequences = 1,
                 .token_ids = positions.data(),
                 .positions = positions.data(),
                 .slots = slots.data(),
                 .query_starts = starts.data(),
                 .context_lens = &context,
                 .block_tables = table_of_blocks.data(),
                 .table_width = static_cast<int64_t>(table_of_blocks.size()),
                 .sampled_rows = nullptr});
  }

  const float* out(int64_t row) const { return program.data(program.output()) + row * program.output().stride; }

  int64_t block_size;
  int64_t width;
  std::vector<float> rows;
  std::shared_ptr<Device> device;
  std::shared_ptr<KVCache> cache;
  Program program;
  std::vector<int32_t> table_of_blocks;
};

// One output element of token `position`, head 4, in double.
double expected(const Fixture& fixture, const Case& c, int64_t position, int64_t d) {
  const int64_t head = 4, kv_head = head / (HEADS / KV_HEADS);
  const auto at = [&](int64_t token, int64_t column) {
    return static_cast<double>(fixture.rows[static_cast<size_t>(token * fixture.width + column)]);
  };
  const int64_t first = c.window && position >= c.window ? position - c.window + 1 : 0;
  double total = 0.0, sum = 0.0;
  for (int64_t key = first; key <= position; ++key) {
    double score = 0.0;
    for (int64_t i = 0; i < c.head_dim; ++i) {
      score += at(position, head * c.head_dim + i) * at(key, (HEADS + kv_head) * c.head_dim + i);
    }
    const double weight = std::exp(score * 0.125);
    total += weight;
    sum += weight * at(key, (HEADS + KV_HEADS + kv_head) * c.head_dim + d);
  }
  return sum / total;
}

}  // namespace

VIVACE_TEST(attention_agrees_with_double_precision_in_any_chunking) {
  for (const KernelTable* kernels : supported_kernels()) {
    for (const Case& c : {Case{64, KVDtype::F32, 0, 600}, Case{40, KVDtype::BF16, 33, 90, 5, 3e-2},
                          Case{8, KVDtype::F16, 0, 70, 5, 4e-3}, Case{24, KVDtype::F32, 0, 1},
                          Case{64, KVDtype::BF16, 0, 600, 16, 3e-2}, Case{72, KVDtype::INT8, 0, 600, 16, 3e-2},
                          Case{40, KVDtype::INT4, 33, 90, 48, 0.3}, Case{72, KVDtype::INT4_CHANNEL_KEYS, 0, 600, 16, 0.3},
                          Case{8, KVDtype::INT4_CHANNEL_KEYS, 50, 90, 32, 0.3}}) {
      Fixture whole(*kernels, 1, c), chunked(*kernels, 3, c);
      whole.run(0, c.num_tokens);
      for (int64_t begin = 0, end; begin < c.num_tokens; begin = end) {
        end = begin + 1 + begin % 71;
        if (end > c.num_tokens) end = c.num_tokens;
        chunked.run(begin, end);
        for (int64_t row = begin; row < end; ++row) {
          for (int64_t i = 0; i < HEADS * c.head_dim; ++i) CHECK(chunked.out(row - begin)[i] == whole.out(row)[i]);
        }
      }
      for (int64_t d = 0; d < c.head_dim; ++d) {
        const double actual = static_cast<double>(whole.out(c.num_tokens - 1)[4 * c.head_dim + d]);
        CHECK(std::abs(actual - expected(whole, c, c.num_tokens - 1, d)) < c.tolerance);
      }
    }
  }
}

// Behind a root, a guess that is wrong lies where the next token belongs; the right two lie behind it.
VIVACE_TEST(guesses_of_a_tree_have_the_bits_of_plain_tokens) {
  for (const KernelTable* kernels : supported_kernels()) {
    for (const Case& c : {Case{64, KVDtype::F32, 0, 33, 16}, Case{40, KVDtype::BF16, 7, 35}, Case{8, KVDtype::F16, 0, 20, 1},
                          Case{72, KVDtype::INT8, 0, 34, 16}, Case{40, KVDtype::INT4, 0, 33, 16},
                          Case{72, KVDtype::INT4_CHANNEL_KEYS, 0, 33, 16}, Case{72, KVDtype::INT4_CHANNEL_KEYS, 0, 34, 16}}) {
      const auto root = static_cast<int32_t>(c.num_tokens - 4);
      Fixture plain(*kernels, 1, c), tree(*kernels, 2, c);
      plain.run(0, root);
      plain.run(root, root + 3);
      tree.run(0, root);
      const auto slot = [&](int32_t position) {
        const auto block = static_cast<size_t>(position / c.block_size);
        return static_cast<int32_t>(tree.table_of_blocks[block] * c.block_size + position % c.block_size);
      };
      const int32_t width = static_cast<int32_t>(tree.table_of_blocks.size());
      std::vector<int32_t> tables;
      for (int span = 0; span < 3; ++span) {
        tables.insert(tables.end(), tree.table_of_blocks.begin(), tree.table_of_blocks.end());
      }
      const std::vector<int32_t> ids{root, 0, root + 1, root + 2}, positions{root, root + 1, root + 1, root + 2};
      const std::vector<int32_t> slots{slot(root), slot(root + 1), slot(root + 2), slot(root + 3)};
      const std::vector<int32_t> starts{0, 2, 3, 4}, contexts{root + 2, root + 2, root + 3}, parents{-1, -1, 0, 2};
      tree.program.run({.num_tokens = 4,
                        .num_sampled = 0,
                        .num_sequences = 3,
                        .token_ids = ids.data(),
                        .positions = positions.data(),
                        .slots = slots.data(),
                        .query_starts = starts.data(),
                        .context_lens = contexts.data(),
                        .block_tables = tables.data(),
                        .table_width = width,
                        .sampled_rows = nullptr,
                        .parents = parents.data()});
      for (int64_t i = 0; i < HEADS * c.head_dim; ++i) {
        CHECK(tree.out(2)[i] == plain.out(1)[i]);
        CHECK(tree.out(3)[i] == plain.out(2)[i]);
      }
      tree.cache->move_tokens(kernels->attention, {{slots[2], slots[1]}, {slots[3], slots[2]}});
      plain.run(root + 3, root + 4);
      tree.run(root + 3, root + 4);
      for (int64_t i = 0; i < HEADS * c.head_dim; ++i) CHECK(tree.out(0)[i] == plain.out(0)[i]);
    }
  }
}

VIVACE_TEST(programs_refuse_what_lies_outside) {
  const Case c{8, KVDtype::F32, 0, 20};
  Fixture fixture(*supported_kernels().back(), 2, c);
  const auto refuses = [](auto&& action) {
    try {
      action();
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  CHECK(refuses([&] { fixture.run(0, 21); }));
  CHECK(refuses([&] { fixture.program.append(ScaleOp{{0, 8, 8, false}, 1.0f, {1 << 30, 8, 8, false}}); }));
  CHECK(refuses([&] { fixture.program.append(ScaleOp{{0, INT64_MAX / 2, 8, false}, 1.0f, {0, 8, 8, false}}); }));
  CHECK(refuses([&] { fixture.program.append(KVWriteOp{{0, 8, 8, false}, {0, 8, 8, false}, 0}); }));
  CHECK(refuses([&] { fixture.cache->copy_blocks({{0, 4}}); }));
}

VIVACE_TEST(caches_refuse_what_their_type_cannot_hold) {
  const auto refuses = [](KVDtype dtype, int64_t head_dim, int64_t block_size) {
    try {
      KVCache(dtype, 1, 1, head_dim, block_size, 1);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  CHECK(refuses(KVDtype::INT8, 64, 8));
  CHECK(refuses(KVDtype::INT4, 520, 16));
  CHECK(refuses(KVDtype::INT4_CHANNEL_KEYS, 64, 20));
  CHECK(!refuses(KVDtype::F16, 520, 8));
}

VIVACE_TEST(keys_of_a_block_in_progress_are_dropped_once_final) {
  const Case c{64, KVDtype::INT4_CHANNEL_KEYS, 0, 100, 16};
  Fixture fixture(*supported_kernels().back(), 1, c);
  fixture.run(0, 40);
  CHECK(fixture.cache->num_recent() == 3);  // an engine may still reject tokens of this step
  fixture.run(40, 41);
  CHECK(fixture.cache->num_recent() == 1);
  fixture.cache->copy_blocks({{fixture.table_of_blocks[2], fixture.table_of_blocks[3]}});
  CHECK(fixture.cache->num_recent() == 2);
  fixture.cache->drop_recent(fixture.cache->recent_blocks());
  CHECK(fixture.cache->num_recent() == 0);
  bool refused = false;
  try {
    fixture.run(41, 42);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  CHECK(refused);
}

}  // namespace vivace
