// The sampler with every filter on and off over hostile logits; tests/ops compares its draws with a reference.
#include "sampling.h"

#include <cmath>
#include <random>
#include <vector>

#include "dispatch.h"
#include "tests/check.h"
#include "tests/random.h"

namespace vivace {
namespace {

struct Parameters {
  Parameters(size_t rows, int64_t vocabulary, std::mt19937& random)
      : mask_words((vocabulary + 31) / 32), masks(static_cast<size_t>(2 * mask_words)) {
    for (uint32_t& word : masks) word = static_cast<uint32_t>(random());
    for (size_t row = 0; row < rows; ++row) mask_index.push_back(static_cast<int32_t>(random() % 3) - 1);
    const auto pick = [&](auto... choices) {
      const float values[] = {static_cast<float>(choices)...};
      return values[random() % (sizeof values / sizeof values[0])];
    };
    for (size_t row = 0; row < rows; ++row) {
      temperature.push_back(pick(0, 1e-4, 1, 100));
      top_k.push_back(static_cast<int32_t>(pick(0, 1, 7, 1000000)));
      top_p.push_back(pick(1, 0.9, 1e-6));
      min_p.push_back(pick(0, 0.1, 1));
      uniform.push_back(pick(0, 0.5, 0.99999994));
    }
    neutral.assign(rows, 1.0f);
    starts.assign(rows + 1, 0);
  }

  SampleInputs inputs() const {
    return {temperature.data(), top_k.data(), top_p.data(), min_p.data(), neutral.data(), neutral.data(),
            neutral.data(), uniform.data(), starts.data(), nullptr, nullptr, 0, starts.data(), nullptr, nullptr, 0,
            mask_index.data(), masks.data(), 2, mask_words};
  }

  bool allows(size_t row, int32_t token) const {
    if (mask_index[row] < 0) return true;
    const int64_t word = mask_index[row] * mask_words + token / 32;
    return (masks[static_cast<size_t>(word)] >> (token % 32)) & 1u;
  }

  int64_t mask_words;
  std::vector<uint32_t> masks;
  std::vector<int32_t> mask_index;
  std::vector<float> temperature, top_p, min_p, uniform, neutral;
  std::vector<int32_t> top_k, starts;
};

}  // namespace

VIVACE_TEST(sampled_tokens_are_possible) {
  std::mt19937 random(11);
  for (const KernelTable* kernels : supported_kernels()) {
    Device device(2, *kernels);
    for (int64_t vocabulary : {1, 2, 15, 16, 17, 1000, 33333}) {
      const int64_t rows = 6;
      std::vector<float> logits = tests::random_floats(rows * vocabulary, static_cast<uint32_t>(vocabulary));
      for (float& logit : logits) logit *= random() % 9 == 0 ? 1e37f : random() % 3 == 0 ? -INFINITY : 1.0f;
      logits[static_cast<size_t>(vocabulary - 1)] = NAN;
      for (int64_t i = 0; i < vocabulary; ++i) logits[static_cast<size_t>(vocabulary + i)] = -INFINITY;
      std::vector<int32_t> tokens(rows), rank(rows), ids(rows);
      std::vector<float> logprob(rows), top(rows);
      for (int round = 0; round < 20; ++round) {
        const Parameters parameters(rows, vocabulary, random);
        sample(device, {logits.data(), rows, vocabulary}, parameters.inputs(), tokens.data());
        CHECK(tokens[0] == -1 && tokens[1] == -1);
        for (int64_t row = 2; row < rows; ++row) {
          const int32_t token = tokens[static_cast<size_t>(row)];
          CHECK(token >= -1 && token < vocabulary);
          if (token >= 0) CHECK(parameters.allows(static_cast<size_t>(row), token));
          if (token >= 0) CHECK(std::isfinite(logits[static_cast<size_t>(row * vocabulary + token)]));
        }
        top_logprobs(device, {logits.data(), rows, vocabulary}, tokens.data(), 1,
                     {logprob.data(), rank.data(), ids.data(), top.data()});
        for (int64_t row = 2; row < rows; ++row) {
          if (tokens[static_cast<size_t>(row)] >= 0) CHECK(logprob[static_cast<size_t>(row)] <= 0.0f);
        }
      }
    }
  }
}

}  // namespace vivace
