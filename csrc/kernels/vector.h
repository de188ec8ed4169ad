// V16: sixteen float32 lanes as one, two or four registers. Kernels are written once against it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace vivace::VIVACE_ISA {

#if defined(__AVX512F__)
inline constexpr int V16_REGISTERS = 1;
using FloatRegister = __m512;
#elif defined(__AVX2__)
inline constexpr int V16_REGISTERS = 2;
using FloatRegister = __m256;
#else
inline constexpr int V16_REGISTERS = 4;
typedef float FloatRegister __attribute__((vector_size(16)));
#endif
inline constexpr int REGISTER_LANES = 16 / V16_REGISTERS;
typedef int32_t IntRegister __attribute__((vector_size(REGISTER_LANES * 4)));

#define VIVACE_INLINE inline __attribute__((always_inline))
#define VIVACE_EACH for (int i = 0; i < V16_REGISTERS; ++i)

struct V16 {
  FloatRegister part[V16_REGISTERS];
};

// Lanes of all ones (true) or zeros.
struct M16 {
  IntRegister part[V16_REGISTERS];
};

VIVACE_INLINE V16 load(const float* from) {
  V16 out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

VIVACE_INLINE void store(float* to, V16 value) { std::memcpy(to, &value, sizeof value); }

VIVACE_INLINE V16 splat(float value) {
  V16 out;
#if defined(__AVX512F__)
  out.part[0] = _mm512_set1_ps(value);
#elif defined(__AVX2__)
  VIVACE_EACH out.part[i] = _mm256_set1_ps(value);
#else
  VIVACE_EACH out.part[i] = FloatRegister{value, value, value, value};
#endif
  return out;
}

VIVACE_INLINE V16 zero() {
  V16 out;
  VIVACE_EACH out.part[i] = FloatRegister{};
  return out;
}

VIVACE_INLINE V16 load_first(const float* from, int64_t count) {
  float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
}

VIVACE_INLINE void store_first(float* to, V16 value, int64_t count) {
  float lanes[16];
  store(lanes, value);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}

#define VIVACE_BINARY(op)                              \
  VIVACE_INLINE V16 operator op(V16 a, V16 b) {        \
    VIVACE_EACH a.part[i] = a.part[i] op b.part[i];    \
    return a;                                          \
  }
VIVACE_BINARY(+)
VIVACE_BINARY(-)
VIVACE_BINARY(*)
VIVACE_BINARY(/)
#undef VIVACE_BINARY

#define VIVACE_COMPARE(op)                                          \
  VIVACE_INLINE M16 operator op(V16 a, V16 b) {                     \
    M16 out;                                                        \
    VIVACE_EACH out.part[i] = (IntRegister)(a.part[i] op b.part[i]); \
    return out;                                                     \
  }
VIVACE_COMPARE(<)
VIVACE_COMPARE(>)
VIVACE_COMPARE(<=)
VIVACE_COMPARE(>=)
VIVACE_COMPARE(==)
#undef VIVACE_COMPARE

VIVACE_INLINE V16 select(M16 mask, V16 yes, V16 no) {
  V16 out;
  VIVACE_EACH out.part[i] =
      (FloatRegister)((mask.part[i] & (IntRegister)yes.part[i]) | (~mask.part[i] & (IntRegister)no.part[i]));
  return out;
}

// a * b + c: rounded once where the instruction set has a fused operation, twice on generic.
VIVACE_INLINE V16 multiply_add(V16 a, V16 b, V16 c) {
#if defined(__AVX512F__)
  c.part[0] = _mm512_fmadd_ps(a.part[0], b.part[0], c.part[0]);
#elif defined(__AVX2__)
  VIVACE_EACH c.part[i] = _mm256_fmadd_ps(a.part[i], b.part[i], c.part[i]);
#else
  VIVACE_EACH c.part[i] = a.part[i] * b.part[i] + c.part[i];
#endif
  return c;
}

// A NaN in a is dropped, one in b is kept.
VIVACE_INLINE V16 maximum(V16 a, V16 b) {
#if defined(__AVX512F__)
  a.part[0] = _mm512_max_ps(a.part[0], b.part[0]);
  return a;
#elif defined(__AVX2__)
  VIVACE_EACH a.part[i] = _mm256_max_ps(a.part[i], b.part[i]);
  return a;
#else
  return select(a > b, a, b);
#endif
}

VIVACE_INLINE V16 minimum(V16 a, V16 b) {
#if defined(__AVX512F__)
  a.part[0] = _mm512_min_ps(a.part[0], b.part[0]);
  return a;
#elif defined(__AVX2__)
  VIVACE_EACH a.part[i] = _mm256_min_ps(a.part[i], b.part[i]);
  return a;
#else
  return select(a < b, a, b);
#endif
}

// Combines lanes as a fixed tree: lanes 8 apart, then 4, 2, 1. The same on every instruction set.
#if defined(__AVX2__)
#define VIVACE_TREE(name, sixteen, eight, four)                                                                      \
  VIVACE_INLINE float name(V16 value) {                                                                              \
    const __m256 halves = _mm256_##eight(sixteen);                                                                   \
    const __m128 quarters = _mm_##four(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));            \
    const __m128 pairs = _mm_##four(quarters, _mm_movehl_ps(quarters, quarters));                                    \
    return _mm_cvtss_f32(_mm_##four(pairs, _mm_movehdup_ps(pairs)));                                                 \
  }
#if defined(__AVX512F__)
#define VIVACE_HALVES _mm512_castps512_ps256(value.part[0]), _mm512_extractf32x8_ps(value.part[0], 1)
#else
#define VIVACE_HALVES value.part[0], value.part[1]
#endif
VIVACE_TREE(horizontal_sum, VIVACE_HALVES, add_ps, add_ps)
VIVACE_TREE(horizontal_maximum, VIVACE_HALVES, max_ps, max_ps)
#undef VIVACE_TREE
#undef VIVACE_HALVES
#else
VIVACE_INLINE float horizontal_sum(V16 value) {
  float lanes[16];
  store(lanes, value);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

VIVACE_INLINE float horizontal_maximum(V16 value) {
  float lanes[16];
  store(lanes, value);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  }
  return lanes[0];
}
#endif

}  // namespace vivace::VIVACE_ISA
