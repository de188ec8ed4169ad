// Choosing tokens from logits, and log probabilities. What each step means is in ops/backend.py.
#pragma once

#include <cstdint>

#include "device.h"

namespace vivace {

// Logits [S, V], rows one after the other.
struct Logits {
  const float* data;
  int64_t num_rows;
  int64_t vocabulary;
};

// Arrays of SampleInputs. Token ids and starts are checked by `sample`.
struct SampleInputs {
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* repetition;
  const float* presence;
  const float* frequency;
  const float* uniform;
  const int32_t* history_starts;
  const int32_t* history_tokens;
  const int32_t* history_counts;
  int64_t history_size;
  const int32_t* bias_starts;
  const int32_t* bias_tokens;
  const float* bias_values;
  int64_t bias_size;
  // Bit b of word w of a mask allows token 32 w + b; mask_index[row] is -1 for a row without one. Null: no row has one.
  const int32_t* mask_index;
  const uint32_t* masks;
  int64_t num_masks;
  int64_t mask_words;
};

// Token ids [S]; -1 for a row with a NaN or +inf, or without any finite logit. Throws std::invalid_argument.
void sample(Device& device, Logits logits, const SampleInputs& inputs, int32_t* tokens);

struct TopLogprobs {
  float* logprob;      // [S]
  int32_t* rank;       // [S]
  int32_t* top_ids;    // [S, k]
  float* top_logprobs; // [S, k]
};

// A token of -1 gets -inf and rank 0. Needs 0 <= k <= V. Throws std::invalid_argument.
void top_logprobs(Device& device, Logits logits, const int32_t* tokens, int64_t k, TopLogprobs out);

}  // namespace vivace
