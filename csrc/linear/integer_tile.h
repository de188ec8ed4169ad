// Quantised weights x int8 activations.
//
// Sum of one output: for each group of 32 inputs in order, an exact int32 sum (it starts at the activations' share of
// the code offset), converted, times the weight's scale, then one fused step with the activations' scale; an affine
// layout adds minimum x (scaled sum of the activations) in a second step. On AVX-512 a group costs 8 VPDPBUSD and 2 or
// 3 float operations of the same two pipes: at best 80% or 73% of the int8 peak.
#pragma once

#include "linear/int8_rows.h"
#include "linear/scales.h"

namespace vivace::VIVACE_ISA {

// part[r] = weight scale x exact sum over group GROUP (0, 1) of a chunk.
template <Layout L, int R, int GROUP>
VIVACE_INLINE void group_products(const uint8_t* chunk, const Scales<L>& scales, int group, const uint8_t* x,
                                  V16 (&part)[R]) {
  constexpr BlockGeometry G = block_geometry(L);
  constexpr int HALVES = GROUP_INPUTS / G.scale_inputs;
  constexpr int LINES = GROUP_LINES / HALVES;
  using Record = Int8Record<L, R>;
  const auto half_products = [&]<int HALF>() __attribute__((always_inline)) {
    I16 sums[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sums[r] = splat_int(G.affine ? 0 : load_int(x + Record::extra_at(HALF, r)));
    const auto add_line = [&]<int LINE>() __attribute__((always_inline)) {
      const Codes codes = unpack_line<G.code_bits, GROUP, HALF * LINES + LINE>(chunk);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        sums[r] = dot4<G.code_bits>(sums[r], codes, load_int(x + Record::codes_at(HALF * LINES + LINE, r)));
      }
    };
    add_line.template operator()<0>();
    add_line.template operator()<1>();
    add_line.template operator()<2>();
    add_line.template operator()<3>();
    if constexpr (LINES == 8) {
      add_line.template operator()<4>();
      add_line.template operator()<5>();
      add_line.template operator()<6>();
      add_line.template operator()<7>();
    }
    const V16 scale = scales.scale(group, HALF);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      part[r] = HALF == 0 ? to_float(sums[r]) * scale : multiply_add(to_float(sums[r]), scale, part[r]);
    }
  };
  half_products.template operator()<0>();
  if constexpr (HALVES == 2) half_products.template operator()<1>();
}

template <Layout L, int R, int GROUP>
VIVACE_INLINE void add_group(const uint8_t* chunk, const Scales<L>& scales, int group, const uint8_t* x,
                             V16 (&sums)[R]) {
  using Record = Int8Record<L, R>;
  V16 part[R];
  group_products<L, R, GROUP>(chunk, scales, group, x, part);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    sums[r] = multiply_add(part[r], splat(load_float(x + Record::scale_at(r))), sums[r]);
  }
  if constexpr (block_geometry(L).affine) {
    const V16 minimum = scales.minimum(group);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sums[r] = multiply_add(minimum, splat(load_float(x + Record::extra_at(0, r))), sums[r]);
    }
  }
}

// Bytes of a chunk with its share of the scales, in whole lines.
template <Layout L>
inline constexpr int CHUNK_PIECE = (block_geometry(L).superblock_bytes() / block_geometry(L).chunks() + LINE_BYTES - 1) /
                                   LINE_BYTES * LINE_BYTES;

template <Layout L, int R>
void integer_tile(const uint8_t* weights, int64_t columns, const uint8_t* x, const TileOutput& out) {
  constexpr BlockGeometry G = block_geometry(L);
  using Record = Int8Record<L, R>;
  V16 sums[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sums[r] = zero();
  Fetcher<CHUNK_PIECE<L>> fetcher(out.fetch);
  const int64_t count = num_superblocks(G, columns);
  for (int64_t i = 0; i < count; ++i) {
    const Scales<L> scales(weights);
    for (int chunk = 0; chunk < G.chunks(); ++chunk) {
      const uint8_t* codes = weights + G.scale_bytes() + chunk * G.chunk_bytes();
      fetcher.step();
      add_group<L, R, 0>(codes, scales, chunk * 2, x, sums);
      add_group<L, R, 1>(codes, scales, chunk * 2 + 1, x + Record::BYTES, sums);
      x += 2 * Record::BYTES;
    }
    weights += G.superblock_bytes();
  }
  store_tile<R>(sums, out);
}

}  // namespace vivace::VIVACE_ISA
