#include "sampling.h"

#include <cmath>
#include <stdexcept>
#include <vector>

#include "top_selection.h"

namespace vivace {

namespace {

constexpr float MINUS_INFINITY = -__builtin_inff();

// First guess at how many tokens top-p keeps; four times as many at each further try.
constexpr int64_t FIRST_NUCLEUS = 256;

// Memory that one thread keeps from row to row: a vocabulary of floats is 600 KB, whose pages cost more to fault in
// than the row to sample.
struct Workspace {
  std::vector<float> logits;
  std::vector<float> weights;
  std::vector<Candidate> kept;
};

Workspace& workspace() {
  static thread_local Workspace space;
  return space;
}

// The row's mask; null where every token is allowed.
const uint32_t* mask_of(const SampleInputs& inputs, int64_t row) {
  if (!inputs.mask_index || inputs.mask_index[row] < 0) return nullptr;
  return inputs.masks + inputs.mask_index[row] * inputs.mask_words;
}

bool has_penalties(const SampleInputs& inputs, int64_t row) {
  return inputs.history_starts[row] != inputs.history_starts[row + 1] ||
         inputs.bias_starts[row] != inputs.bias_starts[row + 1];
}

void penalize(const SampleInputs& inputs, int64_t row, float* logits) {
  for (int64_t i = inputs.history_starts[row]; i < inputs.history_starts[row + 1]; ++i) {
    float& logit = logits[inputs.history_tokens[i]];
    const auto times = static_cast<float>(inputs.history_counts[i]);
    logit = logit > 0.0f ? logit / inputs.repetition[row] : logit * inputs.repetition[row];
    logit -= inputs.frequency[row] * times + (times > 0.0f ? inputs.presence[row] : 0.0f);
  }
  for (int64_t i = inputs.bias_starts[row]; i < inputs.bias_starts[row + 1]; ++i) {
    logits[inputs.bias_tokens[i]] += inputs.bias_values[i];
  }
}

// The kept candidates must be in the order of ids.
int32_t draw(const std::vector<Candidate>& kept, float uniform) {
  double total = 0.0;
  for (const Candidate& candidate : kept) total += static_cast<double>(candidate.value);
  const double target = static_cast<double>(uniform) * total;
  double mass = 0.0;
  int32_t last = kept.front().id;
  for (const Candidate& candidate : kept) {
    if (candidate.value <= 0.0f) continue;
    mass += static_cast<double>(candidate.value);
    last = candidate.id;
    if (mass > target) break;
  }
  return last;
}

int32_t draw_from_all(const float* weights, int64_t count, double total, float uniform) {
  const double target = static_cast<double>(uniform) * total;
  double mass = 0.0;
  int32_t last = -1;
  for (int64_t id = 0; id < count; ++id) {
    if (weights[id] <= 0.0f) continue;
    mass += static_cast<double>(weights[id]);
    last = static_cast<int32_t>(id);
    if (mass > target) break;
  }
  return last;
}

// Cuts candidates (best first) to the shortest prefix with at least top_p of `total`; false if it is longer.
bool cut_nucleus(std::vector<Candidate>& kept, float top_p, double total) {
  const double wanted = static_cast<double>(top_p) * total;
  double mass = 0.0;
  for (size_t i = 0; i < kept.size(); ++i) {
    mass += static_cast<double>(kept[i].value);
    if (mass >= wanted) {
      kept.resize(i + 1);
      return true;
    }
  }
  return false;
}

void cut_min_p(std::vector<Candidate>& kept, float min_p) {
  const float wanted = min_p * kept.front().value;
  while (kept.back().value < wanted) kept.pop_back();
}

void order_by_id(std::vector<Candidate>& kept) {
  std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

// With top-k only k exponentials are needed.
int32_t sample_top_k(const LogitKernels& kernels, const float* logits, int64_t count, const SampleInputs& inputs,
                     int64_t row, Workspace& space) {
  select_top(logits, count, inputs.top_k[row], space.kept);
  std::vector<Candidate>& kept = space.kept;
  const float largest = kept.front().value;
  space.weights.resize(kept.size());
  for (size_t i = 0; i < kept.size(); ++i) space.weights[i] = kept[i].value;
  kernels.exponentials(space.weights.data(), static_cast<int64_t>(kept.size()), largest,
                       1.0f / inputs.temperature[row], space.weights.data());
  for (size_t i = 0; i < kept.size(); ++i) kept[i].value = space.weights[i];
  cut_min_p(kept, inputs.min_p[row]);
  if (inputs.top_p[row] < 1.0f) {
    double total = 0.0;
    for (const Candidate& candidate : kept) total += static_cast<double>(candidate.value);
    cut_nucleus(kept, inputs.top_p[row], total);
  }
  order_by_id(kept);
  return draw(kept, inputs.uniform[row]);
}

int32_t sample_all(const LogitKernels& kernels, const float* logits, int64_t count, float largest,
                   const SampleInputs& inputs, int64_t row, Workspace& space) {
  space.weights.resize(static_cast<size_t>(count));
  float* weights = space.weights.data();
  double total = kernels.exponentials(logits, count, largest, 1.0f / inputs.temperature[row], weights);
  if (inputs.min_p[row] > 0.0f) {
    total = 0.0;
    for (int64_t id = 0; id < count; ++id) {
      if (weights[id] < inputs.min_p[row]) weights[id] = 0.0f;  // the largest weight is exp(0) = 1
      total += static_cast<double>(weights[id]);
    }
  }
  if (inputs.top_p[row] >= 1.0f) return draw_from_all(weights, count, total, inputs.uniform[row]);
  for (int64_t size = FIRST_NUCLEUS;; size *= 4) {
    select_top(weights, count, size < count ? size : count, space.kept);
    if (cut_nucleus(space.kept, inputs.top_p[row], total) || size >= count) break;
  }
  order_by_id(space.kept);
  return draw(space.kept, inputs.uniform[row]);
}

int32_t sample_row(const LogitKernels& kernels, const float* raw, int64_t count, const SampleInputs& inputs,
                   int64_t row) {
  bool is_broken = false;
  float largest = kernels.maximum(raw, count, &is_broken);
  if (is_broken) return -1;
  Workspace& space = workspace();
  const float* logits = raw;
  const uint32_t* mask = mask_of(inputs, row);
  if (mask || has_penalties(inputs, row)) {
    space.logits.resize(static_cast<size_t>(count));
    if (mask) {
      kernels.masked(raw, mask, count, space.logits.data());
    } else {
      std::copy(raw, raw + count, space.logits.data());
    }
    penalize(inputs, row, space.logits.data());
    logits = space.logits.data();
    largest = kernels.maximum(logits, count, &is_broken);
  }
  if (is_broken || largest == MINUS_INFINITY) return -1;
  if (inputs.temperature[row] == 0.0f) return static_cast<int32_t>(std::find(logits, logits + count, largest) - logits);
  if (inputs.top_k[row] > 0 && inputs.top_k[row] < count) {
    return sample_top_k(kernels, logits, count, inputs, row, space);
  }
  return sample_all(kernels, logits, count, largest, inputs, row, space);
}

void check_sparse(const int32_t* starts, int64_t num_rows, const int32_t* tokens, int64_t size, int64_t vocabulary) {
  bool good = starts[0] >= 0 && starts[num_rows] <= size;
  for (int64_t row = 0; row < num_rows; ++row) good = good && starts[row] <= starts[row + 1];
  if (!good) throw std::invalid_argument("sample: starts do not fit their arrays");
  for (int64_t i = starts[0]; i < starts[num_rows]; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) throw std::invalid_argument("sample: a token is outside the vocabulary");
  }
}

void check_masks(const SampleInputs& inputs, Logits logits) {
  if (!inputs.mask_index) return;
  if (inputs.mask_words != (logits.vocabulary + 31) / 32) {
    throw std::invalid_argument("sample: a mask does not have one bit for each token");
  }
  for (int64_t row = 0; row < logits.num_rows; ++row) {
    if (inputs.mask_index[row] < -1 || inputs.mask_index[row] >= inputs.num_masks) {
      throw std::invalid_argument("sample: a row names a mask that there is not");
    }
  }
}

void rank_row(const LogitKernels& kernels, const float* logits, int64_t count, int32_t token, int64_t k, int64_t row,
              TopLogprobs out) {
  bool is_broken = false;
  const float largest = kernels.maximum(logits, count, &is_broken);
  const bool is_usable = !is_broken && largest != MINUS_INFINITY;
  const double normalizer =
      is_usable ? static_cast<double>(largest) + std::log(kernels.exponentials(logits, count, largest, 1.0f, nullptr))
                : static_cast<double>(__builtin_nanf(""));
  const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - normalizer); };

  std::vector<Candidate>& best = workspace().kept;
  select_top(logits, count, k, best);
  for (int64_t i = 0; i < k; ++i) {
    const bool exists = i < static_cast<int64_t>(best.size());
    out.top_ids[row * k + i] = exists ? best[static_cast<size_t>(i)].id : 0;
    out.top_logprobs[row * k + i] = exists ? logprob(best[static_cast<size_t>(i)].value) : MINUS_INFINITY;
  }
  if (token < 0) {
    out.logprob[row] = MINUS_INFINITY;
    out.rank[row] = 0;
    return;
  }
  const float chosen = logits[token];
  int64_t better = 0;
  for (int64_t id = 0; id < count; ++id) better += logits[id] > chosen;
  for (int64_t id = 0; id < token; ++id) better += logits[id] == chosen;
  out.logprob[row] = logprob(chosen);
  out.rank[row] = static_cast<int32_t>(better + 1);
}

}  // namespace

void sample(Device& device, Logits logits, const SampleInputs& inputs, int32_t* tokens) {
  check_sparse(inputs.history_starts, logits.num_rows, inputs.history_tokens, inputs.history_size, logits.vocabulary);
  check_sparse(inputs.bias_starts, logits.num_rows, inputs.bias_tokens, inputs.bias_size, logits.vocabulary);
  check_masks(inputs, logits);
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(logits.num_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      tokens[row] =
          sample_row(device.kernels.logits, logits.data + row * logits.vocabulary, logits.vocabulary, inputs, row);
    }
  });
}

void top_logprobs(Device& device, Logits logits, const int32_t* tokens, int64_t k, TopLogprobs out) {
  if (k < 0 || k > logits.vocabulary) throw std::invalid_argument("top_logprobs: k is outside the vocabulary");
  for (int64_t row = 0; row < logits.num_rows; ++row) {
    if (tokens[row] < -1 || tokens[row] >= logits.vocabulary) {
      throw std::invalid_argument("top_logprobs: a token is outside the vocabulary");
    }
  }
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(logits.num_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      rank_row(device.kernels.logits, logits.data + row * logits.vocabulary, logits.vocabulary, tokens[row], k, row,
               out);
    }
  });
}

}  // namespace vivace
