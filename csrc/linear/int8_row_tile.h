// Int8 rows x int8 tokens: W8A8, and LLM.int8() with its outliers.
//
// Sum of one output: the exact integer sum over all inputs (it starts at the activations' share of the code offset),
// converted once, times the token's scale; then the token's outliers in the order of inputs, each one fused step of
// value x code; then times the row's scale. Integers are exact, so that partial sums may be split in any way. On AVX-512
// four inputs cost one VPDPBUSD and nothing else of its pipes.
#pragma once

#include "linear/integer_tile.h"
#include "linear/token_rows.h"

namespace vivace::VIVACE_ISA {

#if defined(__AVX512F__)
inline constexpr int INT8_ROW_TILE_ROWS = 12;
#else
inline constexpr int INT8_ROW_TILE_ROWS = INTEGER_TILE_ROWS;
#endif

// Chains of dependent steps: a step takes about four times as long as it keeps the unit busy.
template <int R>
inline constexpr int CHAINS = R >= 4 ? 1 : R == 1 ? 4 : 2;

inline constexpr int INT8_ROW_PIECE_LINES = 8;  // read between two steps of the fetcher
inline constexpr int INT8_ROW_PIECE = INT8_ROW_PIECE_LINES * LINE_BYTES;

using RowFetcher = Fetcher<INT8_ROW_PIECE>;

template <int R>
VIVACE_INLINE void add_line(const uint8_t* line, const uint8_t* x, I16 (&sums)[R]) {
  const Codes codes = load_line(line);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[r] = dot4<8>(sums[r], codes, load_int(x + r * 4));
}

// sums[r] += codes x activations over `lines` lines.
template <int R>
VIVACE_INLINE void add_lines(const uint8_t* codes, const uint8_t* x, int64_t lines, RowFetcher& fetcher, I16 (&sums)[R]) {
  constexpr int STEP = CHAINS<R> > 1 ? CHAINS<R> : 2;
  I16 more[3][R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) more[0][r] = more[1][r] = more[2][r] = splat_int(0);
  int64_t line = 0;
  for (; line + STEP <= lines; line += STEP) {
    if (line % INT8_ROW_PIECE_LINES == 0) fetcher.step();
    add_line<R>(codes, x, sums);
    if constexpr (CHAINS<R> == 1) add_line<R>(codes + LINE_BYTES, x + R * 4, sums);
    if constexpr (CHAINS<R> >= 2) add_line<R>(codes + LINE_BYTES, x + R * 4, more[0]);
    if constexpr (CHAINS<R> == 4) {
      add_line<R>(codes + 2 * LINE_BYTES, x + 2 * R * 4, more[1]);
      add_line<R>(codes + 3 * LINE_BYTES, x + 3 * R * 4, more[2]);
    }
    codes += STEP * LINE_BYTES;
    x += STEP * R * 4;
  }
  for (; line < lines; ++line) {
    add_line<R>(codes, x, sums);
    codes += LINE_BYTES;
    x += R * 4;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    VIVACE_EACH sums[r].part[i] += (more[0][r].part[i] + more[1][r].part[i]) + more[2][r].part[i];
  }
}

// The sum over more inputs than an int32 holds: spans one after the other, exactly, rounded to float32 once.
template <int R>
__attribute__((noinline)) void sum_spans(const uint8_t* codes, const uint8_t* x, const TokenTile& at,
                                         RowFetcher& fetcher, V16 (&totals)[R]) {
  int64_t wide[R][16] = {};
  for (int64_t span = 0; span < at.spans; ++span) {
    const int64_t first = span * SPAN_INPUTS / 4;
    const int64_t lines = at.lines - first < SPAN_INPUTS / 4 ? at.lines - first : SPAN_INPUTS / 4;
    I16 sums[R];
    for (int r = 0; r < R; ++r) sums[r] = splat_int(load_int(x + at.share_at(span, r)));
    add_lines<R>(codes + first * LINE_BYTES, x + at.codes_at(first, 0), lines, fetcher, sums);
    for (int r = 0; r < R; ++r) {
      int32_t lanes[16];
      std::memcpy(lanes, &sums[r], sizeof lanes);
      for (int lane = 0; lane < 16; ++lane) wide[r][lane] += lanes[lane];
    }
  }
  for (int r = 0; r < R; ++r) {
    float lanes[16];
    for (int lane = 0; lane < 16; ++lane) lanes[lane] = static_cast<float>(wide[r][lane]);
    totals[r] = load(lanes);
  }
}

template <int R>
VIVACE_INLINE void integer_sums(const uint8_t* codes, const uint8_t* x, const TokenTile& at, RowFetcher& fetcher,
                                V16 (&totals)[R]) {
  if (at.spans > 1) return sum_spans<R>(codes, x, at, fetcher, totals);
  I16 sums[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[r] = splat_int(load_int(x + at.share_at(0, r)));
  add_lines<R>(codes, x, at.lines, fetcher, sums);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) totals[r] = to_float(sums[r]);
}

// The sixteen codes of one input, as signed numbers.
VIVACE_INLINE V16 input_codes(const uint8_t* codes, int64_t input) {
  const Codes line = load_line(codes + input / 4 * LINE_BYTES);
  const int shift = static_cast<int>(input % 4) * 8;
  I16 values;
  VIVACE_EACH values.part[i] = ((line.part[i] >> shift) & 255) - 128;
  return to_float(values);
}

VIVACE_INLINE V16 outlier_sum(const uint8_t* codes, const uint8_t* list) {
  int64_t count;
  std::memcpy(&count, list, sizeof count);
  V16 sum = zero();
  for (int64_t i = 0; i < count; ++i) {
    Outlier outlier;
    std::memcpy(&outlier, list + 8 + i * int64_t{sizeof outlier}, sizeof outlier);
    sum = multiply_add(input_codes(codes, outlier.input), splat(outlier.value), sum);
  }
  return sum;
}

template <bool OUTLIERS, int R>
void int8_row_tile(const uint8_t* weights, int64_t columns, const uint8_t* x, const TileOutput& out) {
  const TokenTile at(columns, R, OUTLIERS);
  const uint8_t* codes = weights + INT8_ROW_SCALE_BYTES;
  V16 totals[R];
  RowFetcher fetcher(out.fetch);
  integer_sums<R>(codes, x, at, fetcher, totals);
  V16 scale;
  std::memcpy(&scale, weights, sizeof scale);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) totals[r] = totals[r] * splat(load_float(x + at.scale_at(r)));
  if constexpr (OUTLIERS) {
    for (int r = 0; r < R; ++r) {
      int64_t distance;
      std::memcpy(&distance, x + at.list_at(r), sizeof distance);
      totals[r] = totals[r] + outlier_sum(codes, x + distance);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) totals[r] = totals[r] * scale;
  store_tile<R>(totals, out);
}

}  // namespace vivace::VIVACE_ISA
