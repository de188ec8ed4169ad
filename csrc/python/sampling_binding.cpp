#include <stdexcept>

#include "philox.h"
#include "python/arrays.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace vivace {
namespace {

Logits logits_of(const Floats2& logits) { return {logits.data(), length(logits), length(logits, 1)}; }

void require_length(int64_t actual, int64_t expected) {
  if (actual != expected) throw std::invalid_argument("sampling: an array does not have one entry for each row");
}

void sample_from_python(Device& device, Floats2 logits, Floats1 temperature, Ints1 top_k, Floats1 top_p, Floats1 min_p,
                        Floats1 repetition, Floats1 presence, Floats1 frequency, Floats1 uniform,
                        Ints1 history_starts, Ints1 history_tokens, Ints1 history_counts, Ints1 bias_starts,
                        Ints1 bias_tokens, Floats1 bias_values, Ints1 mask_index, Words2 masks, IntsOut1 tokens) {
  const int64_t rows = length(logits);
  for (const Floats1* array : {&temperature, &top_p, &min_p, &repetition, &presence, &frequency, &uniform}) {
    require_length(length(*array), rows);
  }
  require_length(length(top_k), rows);
  require_length(length(tokens), rows);
  require_length(length(history_starts), rows + 1);
  require_length(length(bias_starts), rows + 1);
  require_length(length(history_counts), length(history_tokens));
  require_length(length(bias_values), length(bias_tokens));
  const bool has_masks = length(mask_index) > 0;
  if (has_masks) require_length(length(mask_index), rows);
  const SampleInputs inputs{temperature.data(),    top_k.data(),          top_p.data(),          min_p.data(),
                            repetition.data(),     presence.data(),       frequency.data(),      uniform.data(),
                            history_starts.data(), history_tokens.data(), history_counts.data(), length(history_tokens),
                            bias_starts.data(),    bias_tokens.data(),    bias_values.data(),    length(bias_tokens),
                            has_masks ? mask_index.data() : nullptr, masks.data(), length(masks), length(masks, 1)};
  const Logits view = logits_of(logits);
  int32_t* out = tokens.data();
  nb::gil_scoped_release release;
  sample(device, view, inputs, out);
}

void uniforms_from_python(ContiguousArray<const uint64_t, 1> seed, Ints1 index, Ints1 position, FloatsOut1 uniform_out) {
  const int64_t rows = length(uniform_out);
  for (int64_t actual : {length(seed), length(index), length(position)}) require_length(actual, rows);
  for (int64_t row = 0; row < rows; ++row) {
    uniform_out.data()[row] = uniform(seed.data()[row], index.data()[row], position.data()[row]);
  }
}

void top_logprobs_from_python(Device& device, Floats2 logits, Ints1 tokens, FloatsOut1 logprob, IntsOut1 rank,
                              IntsOut2 top_ids, FloatsOut2 top_values) {
  const int64_t rows = length(logits), k = length(top_ids, 1);
  for (int64_t actual : {length(tokens), length(logprob), length(rank), length(top_ids), length(top_values)}) {
    require_length(actual, rows);
  }
  require_length(length(top_values, 1), k);
  const Logits view = logits_of(logits);
  const TopLogprobs out{logprob.data(), rank.data(), top_ids.data(), top_values.data()};
  const int32_t* chosen = tokens.data();
  nb::gil_scoped_release release;
  top_logprobs(device, view, chosen, k, out);
}

}  // namespace

void bind_sampling(nb::module_& module) {
  // noconvert: a converted output would be a copy that nobody reads.
  module.def("sample", &sample_from_python, "device"_a, "logits"_a.noconvert(), "temperature"_a.noconvert(),
             "top_k"_a.noconvert(), "top_p"_a.noconvert(), "min_p"_a.noconvert(), "repetition"_a.noconvert(),
             "presence"_a.noconvert(), "frequency"_a.noconvert(), "uniform"_a.noconvert(),
             "history_starts"_a.noconvert(), "history_tokens"_a.noconvert(), "history_counts"_a.noconvert(),
             "bias_starts"_a.noconvert(), "bias_tokens"_a.noconvert(), "bias_values"_a.noconvert(),
             "mask_index"_a.noconvert(), "masks"_a.noconvert(), "tokens"_a.noconvert());
  module.def("uniforms", &uniforms_from_python, "seed"_a.noconvert(), "index"_a.noconvert(), "position"_a.noconvert(),
             "uniform"_a.noconvert());
  module.def("top_logprobs", &top_logprobs_from_python, "device"_a, "logits"_a.noconvert(), "tokens"_a.noconvert(),
             "logprob"_a.noconvert(), "rank"_a.noconvert(), "top_ids"_a.noconvert(), "top_values"_a.noconvert());
}

}  // namespace vivace
