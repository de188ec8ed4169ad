// Dense weights x float32 activations, or bf16 pairs x bf16 pairs where the processor multiplies them.
//
// Two partial sums an output, by the parity of the step (one input; one pair for VDPBF16PS), added at the end: with one
// stream of weights and one row, a single chain of dependent operations would be slower than memory. Float32
// activations [K][R] serve f32, f16 and, without VDPBF16PS, bf16 weights, exactly; bf16 activations are rounded to
// nearest even, [K/2][R][2].
#pragma once

#include "linear/codes.h"
#include "linear/row_tiles.h"

namespace vivace::VIVACE_ISA {

#if defined(__AVX512BF16__)
inline constexpr bool MULTIPLIES_BFLOAT = true;
#else
inline constexpr bool MULTIPLIES_BFLOAT = false;
#endif

inline constexpr int PIECE_PAIRS = 8;  // read between two steps of the fetcher

// Input PARITY of the two whose weights begin at `pair`.
template <Layout L, int PARITY>
VIVACE_INLINE V16 load_weights(const uint8_t* pair) {
  V16 out;
  if constexpr (L == Layout::F32) {
    std::memcpy(&out, pair + PARITY * 64, sizeof out);
  } else if constexpr (L == Layout::F16) {
    out = load_halves(pair + PARITY * 32);
  } else {
    const Codes words = load_line(pair);
    VIVACE_EACH out.part[i] =
        (FloatRegister)(PARITY == 0 ? words.part[i] << 16 : words.part[i] & static_cast<int32_t>(0xffff0000u));
  }
  return out;
}

template <Layout L, int R, int PARITY>
VIVACE_INLINE void add_input(const uint8_t* pair, const uint8_t* x, V16 (&sums)[2][R]) {
  const V16 weights = load_weights<L, PARITY>(pair);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V16 activation = splat(load_float(x + (PARITY * R + r) * 4));
    sums[PARITY][r] = multiply_add(weights, activation, sums[PARITY][r]);
  }
}

template <int R>
VIVACE_INLINE void store_partial_sums(const V16 (&sums)[2][R], const TileOutput& out) {
  V16 total[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) total[r] = sums[0][r] + sums[1][r];
  store_tile<R>(total, out);
}

template <int R>
VIVACE_INLINE void clear_partial_sums(V16 (&sums)[2][R]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[0][r] = sums[1][r] = zero();
}

template <Layout L, int R>
void dense_tile(const uint8_t* weights, int64_t columns, const uint8_t* x, const TileOutput& out) {
  constexpr int PAIR_BYTES = L == Layout::F32 ? 128 : 64;
  V16 sums[2][R];
  clear_partial_sums<R>(sums);
  Fetcher<PIECE_PAIRS * PAIR_BYTES> fetcher(out.fetch);
  for (int64_t pairs = columns / 2; pairs > 0; --pairs) {
    if (pairs % PIECE_PAIRS == 0) fetcher.step();
    add_input<L, R, 0>(weights, x, sums);
    add_input<L, R, 1>(weights, x, sums);
    weights += PAIR_BYTES;
    x += R * 8;
  }
  if (columns % 2) add_input<L, R, 0>(weights, x, sums);
  store_partial_sums<R>(sums, out);
}

inline void prepare_float_row(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile) {
  for (int64_t k = 0; k < columns; ++k) std::memcpy(tile + (k * tile_rows + row) * 4, x + k, 4);
}

#if defined(__AVX512BF16__)

template <int R, int PARITY>
VIVACE_INLINE void add_pair(const uint8_t* weights, const uint8_t* x, V16 (&sums)[2][R]) {
  const __m512bh pair = (__m512bh)load_line(weights + PARITY * 64).part[0];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const __m512bh activations = (__m512bh)_mm512_set1_epi32(load_int(x + (PARITY * R + r) * 4));
    sums[PARITY][r].part[0] = _mm512_dpbf16_ps(sums[PARITY][r].part[0], pair, activations);
  }
}

template <int R>
void bfloat_tile(const uint8_t* weights, int64_t columns, const uint8_t* x, const TileOutput& out) {
  V16 sums[2][R];
  clear_partial_sums<R>(sums);
  Fetcher<PIECE_PAIRS * 64> fetcher(out.fetch);
  const auto add_two = [&]() __attribute__((always_inline)) {
    add_pair<R, 0>(weights, x, sums);
    add_pair<R, 1>(weights, x, sums);
    weights += 128;
    x += R * 8;
  };
  int64_t pairs = (columns + 1) / 2;
  for (; pairs >= PIECE_PAIRS; pairs -= PIECE_PAIRS) {
    fetcher.step();
#pragma GCC unroll 4
    for (int i = 0; i < PIECE_PAIRS; i += 2) add_two();
  }
  for (; pairs >= 2; pairs -= 2) add_two();
  if (pairs) add_pair<R, 0>(weights, x, sums);
  store_partial_sums<R>(sums, out);
}

// Sixteen pairs of inputs, of which the first `left` inputs are there.
VIVACE_INLINE __m512i bfloat_pairs(const float* x, int64_t left) {
  if (left >= 32) return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << left) - 1);
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16),
                                      _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x));
}

inline void prepare_bfloat_row(const float* x, int64_t columns, int64_t tile_rows, int64_t row, uint8_t* tile) {
  uint8_t* to = tile + row * 4;
  for (int64_t k = 0; k < columns; k += 32) {
    const int64_t left = columns - k;
    alignas(64) uint8_t pairs[64];
    _mm512_store_si512(pairs, bfloat_pairs(x + k, left));
    if (left >= 32) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) std::memcpy(to + i * tile_rows * 4, pairs + i * 4, 4);
    } else {
      for (int64_t i = 0; i < (left + 1) / 2; ++i) std::memcpy(to + i * tile_rows * 4, pairs + i * 4, 4);
    }
    to += 16 * tile_rows * 4;
  }
}

#endif

}  // namespace vivace::VIVACE_ISA
