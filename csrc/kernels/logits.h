// Passes over one row of logits.
#pragma once

#include "kernel_table.h"
#include "kernels/exponential.h"

namespace vivace::VIVACE_ISA {

// A NaN or +inf anywhere turns the sum of x * 0 into NaN, and so does -inf, which is a masked token and allowed:
// min(x, largest float) keeps +inf and NaN apart from it by comparison instead.
inline float logit_maximum(const float* logits, int64_t count, bool* is_broken) {
  const V16 limit = splat(__FLT_MAX__);
  V16 largest = splat(-__builtin_inff());
  M16 good;
  VIVACE_EACH good.part[i] = ~IntRegister{};
  for (int64_t i = 0; i < count; i += 16) {
    V16 x;
    if (i + 16 <= count) {
      x = load(logits + i);
    } else {
      float lanes[16];
      for (int lane = 0; lane < 16; ++lane) lanes[lane] = logits[i + lane < count ? i + lane : count - 1];
      x = load(lanes);
    }
    const M16 fits = x <= limit;  // false for NaN and +inf
    for (int part = 0; part < V16_REGISTERS; ++part) good.part[part] &= fits.part[part];
    largest = maximum(x, largest);
  }
  const float broken_lanes = horizontal_sum(select(good, zero(), splat(1.0f)));
  *is_broken = broken_lanes != 0.0f;
  return horizontal_maximum(largest);
}

// Sums of 1,024 terms in float, these in double: the total's error stays near 1e-7 for any vocabulary.
inline double logit_exponentials(const float* logits, int64_t count, float shift, float factor, float* out) {
  const V16 shifts = splat(shift), factors = splat(factor);
  double total = 0.0;
  for (int64_t start = 0; start < count; start += 1024) {
    const int64_t end = start + 1024 < count ? start + 1024 : count;
    V16 sum = zero();
    int64_t i = start;
    for (; i + 16 <= end; i += 16) {
      const V16 value = exponential((load(logits + i) - shifts) * factors);
      if (out) store(out + i, value);
      sum = sum + value;
    }
    if (i < end) {
      float lanes[16];
      for (int lane = 0; lane < 16; ++lane) lanes[lane] = i + lane < end ? logits[i + lane] : -__builtin_inff();
      const V16 value = exponential((load(lanes) - shifts) * factors);
      if (out) store_first(out + i, value, end - i);
      sum = sum + value;
    }
    total += static_cast<double>(horizontal_sum(sum));
  }
  return total;
}

// Words that allow all or nothing are the rule: inside free text and inside a literal.
inline void masked_logits(const float* logits, const uint32_t* mask, int64_t count, float* out) {
  for (int64_t start = 0; start < count; start += 32) {
    const uint32_t word = mask[start / 32];
    const int64_t size = count - start < 32 ? count - start : 32;
    for (int64_t i = 0; i < size; ++i) {
      out[start + i] = (word >> i) & 1u ? logits[start + i] : -__builtin_inff();
    }
  }
}

inline constexpr LogitKernels LOGIT_KERNELS = {
    .maximum = logit_maximum,
    .exponentials = logit_exponentials,
    .masked = masked_logits,
};

}  // namespace vivace::VIVACE_ISA
