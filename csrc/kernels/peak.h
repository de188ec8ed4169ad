// Loops that do nothing but multiply and add in registers, or read: the ceilings that `vivace doctor` shows.
#pragma once

#include "kernel_table.h"
#include "kernels/vector.h"

namespace vivace::VIVACE_ISA {

// Keeps a register's value alive without storing it.
template <class Register>
VIVACE_INLINE void keep(Register& value) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(value));
#elif defined(__SSE2__)
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+m"(value));
#endif
}

// Twelve independent registers hide the latency of a multiply-add on two units.
inline constexpr int PEAK_CHAINS = 12;

// One register: the compiler keeps an array of whole V16 in memory here.
VIVACE_INLINE FloatRegister multiply_add_register(FloatRegister a, FloatRegister b, FloatRegister c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline double peak_f32(int64_t iterations) {
  FloatRegister sums[PEAK_CHAINS] = {};
  const FloatRegister a = splat(1.0f).part[0], b = splat(0.5f).part[0];
  for (int64_t i = 0; i < iterations; ++i) {
    for (FloatRegister& sum : sums) {
      sum = multiply_add_register(a, b, sum);
      keep(sum);
    }
  }
  return static_cast<double>(iterations) * PEAK_CHAINS * REGISTER_LANES * 2;
}

inline double peak_bf16([[maybe_unused]] int64_t iterations) {
#if defined(__AVX512BF16__)
  __m512 sums[PEAK_CHAINS] = {};
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, ones, ones);
      keep(sum);
    }
  }
  return static_cast<double>(iterations) * PEAK_CHAINS * 32 * 2;
#else
  return 0.0;
#endif
}

inline double peak_int8([[maybe_unused]] int64_t iterations) {
#if defined(__AVX512VNNI__)
  __m512i sums[PEAK_CHAINS] = {};
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m512i& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, ones, ones);
      keep(sum);
    }
  }
  return static_cast<double>(iterations) * PEAK_CHAINS * 64 * 2;
#elif defined(__AVX2__)
  __m256i sums[PEAK_CHAINS] = {};
  __m256i ones = _mm256_set1_epi8(1);
  const __m256i ones16 = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < iterations; ++i) {
    for (__m256i& sum : sums) {
      keep(ones);
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, ones), ones16));
      keep(sum);
    }
  }
  return static_cast<double>(iterations) * PEAK_CHAINS * 32 * 2;
#else
  return 0.0;
#endif
}

inline float peak_read(const uint8_t* data, int64_t num_bytes) {
  const float* from = reinterpret_cast<const float*>(data);
  V16 sums[4] = {zero(), zero(), zero(), zero()};
  for (int64_t i = 0; i < num_bytes / 4; i += 256) {
    for (int line = 0; line < 16; ++line) sums[line % 4] = sums[line % 4] + load(from + i + 16 * line);
  }
  return horizontal_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline constexpr PeakKernels PEAK_KERNELS = {
    .f32 = peak_f32,
    .bf16 = peak_bf16,
    .int8 = peak_int8,
    .read = peak_read,
};

}  // namespace vivace::VIVACE_ISA
