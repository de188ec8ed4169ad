// exp, tanh and the activations made of them, sixteen lanes at a time. Relative error about 1e-7.
#pragma once

#include "kernels/vector.h"

namespace vivace::VIVACE_ISA {

// 2^n from a float that holds the integer n in [-126, 127].
VIVACE_INLINE V16 power_of_two(V16 n) {
  V16 out;
  // Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa.
  VIVACE_EACH {
    const IntRegister bits = (IntRegister)(n.part[i] + 12582912.0f) - 0x4b400000;
    out.part[i] = (FloatRegister)((bits + 127) << 23);
  }
  return out;
}

// exp of r in [-ln 2 / 2, ln 2 / 2], as Cephes' expf has it; r = x - n ln 2.
VIVACE_INLINE V16 reduced_exponential(V16 x, V16 n) {
  V16 r = multiply_add(n, splat(-0.693359375f), x);
  r = multiply_add(n, splat(2.12194440e-4f), r);
  V16 y = splat(1.9875691500e-4f);
  y = multiply_add(y, r, splat(1.3981999507e-3f));
  y = multiply_add(y, r, splat(8.3334519073e-3f));
  y = multiply_add(y, r, splat(4.1665795894e-2f));
  y = multiply_add(y, r, splat(1.6666665459e-1f));
  y = multiply_add(y, r, splat(5.0000001201e-1f));
  return multiply_add(y, r * r, r + splat(1.0f));
}

// Below -87.3 gives 0 (never a subnormal), above 88.37 (AVX-512: 88.73, where float32 ends) inf; NaN stays.
VIVACE_INLINE V16 exponential(V16 x) {
  const V16 low = splat(-87.3365478515625f);
#if defined(__AVX512F__)
  const V16 clamped = minimum(splat(90.0f), maximum(low, x));
  const V16 scaled = clamped * splat(1.44269504088896341f);
  const V16 n{{_mm512_roundscale_ps(scaled.part[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}};
  const __mmask16 is_kept = _mm512_cmp_ps_mask(x.part[0], low.part[0], _CMP_NLT_UQ);
  return {{_mm512_maskz_scalef_ps(is_kept, reduced_exponential(clamped, n).part[0], n.part[0])}};
#else
  const V16 high = splat(88.3762626647949f);
  const V16 clamped = minimum(high, maximum(low, x));
  const V16 magic = splat(12582912.0f);
  const V16 n = (clamped * splat(1.44269504088896341f) + magic) - magic;
  const V16 y = select(x < low, zero(), reduced_exponential(clamped, n) * power_of_two(n));
  return select(x > high, splat(__builtin_inff()), y);
#endif
}

VIVACE_INLINE V16 absolute(V16 x) {
  VIVACE_EACH x.part[i] = (FloatRegister)((IntRegister)x.part[i] & 0x7fffffff);
  return x;
}

// Cephes' tanhf: a polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel.
VIVACE_INLINE V16 hyperbolic_tangent(V16 x) {
  const V16 magnitude = absolute(x);
  const V16 squared = x * x;
  V16 small = splat(-5.70498872745e-3f);
  small = multiply_add(small, squared, splat(2.06390887954e-2f));
  small = multiply_add(small, squared, splat(-5.37397155531e-2f));
  small = multiply_add(small, squared, splat(1.33314422036e-1f));
  small = multiply_add(small, squared, splat(-3.33332819422e-1f));
  small = multiply_add(small * squared, x, x);
  const V16 large = splat(1.0f) - splat(2.0f) / (exponential(magnitude + magnitude) + splat(1.0f));
  return select(magnitude < splat(0.625f), small, select(x < zero(), zero() - large, large));
}

VIVACE_INLINE V16 sigmoid(V16 x) { return splat(1.0f) / (splat(1.0f) + exponential(zero() - x)); }

VIVACE_INLINE V16 silu(V16 x) { return x / (splat(1.0f) + exponential(zero() - x)); }

// x / 2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3): no cancellation on the negative side.
VIVACE_INLINE V16 gelu_tanh(V16 x) {
  const V16 cubic = multiply_add(x * x * x, splat(0.044715f), x);
  return x * sigmoid(cubic * splat(1.5957691216057308f));
}

// x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2, with the rational Chebyshev erfc of Numerical Recipes (6.2): fractional
// error below 1.2e-7 everywhere, so that the negative tail keeps its digits.
VIVACE_INLINE V16 gelu(V16 x) {
  const V16 z = absolute(x) * splat(0.70710678118654752f);
  const V16 t = splat(1.0f) / multiply_add(z, splat(0.5f), splat(1.0f));
  V16 y = splat(0.17087277f);
  y = multiply_add(y, t, splat(-0.82215223f));
  y = multiply_add(y, t, splat(1.48851587f));
  y = multiply_add(y, t, splat(-1.13520398f));
  y = multiply_add(y, t, splat(0.27886807f));
  y = multiply_add(y, t, splat(-0.18628806f));
  y = multiply_add(y, t, splat(0.09678418f));
  y = multiply_add(y, t, splat(0.37409196f));
  y = multiply_add(y, t, splat(1.00002368f));
  y = multiply_add(y, t, splat(-1.26551223f));
  const V16 half_tail = splat(0.5f) * t * exponential(y - z * z);
  return x * select(x < zero(), half_tail, splat(1.0f) - half_tail);
}

}  // namespace vivace::VIVACE_ISA
