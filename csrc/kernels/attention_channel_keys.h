// Tiles of int4 keys coded per channel and int4 values coded per token (kv_layout.h).
//
// A query reads the blocks before its own as codes and its own block, complete or not, as the float16 originals. The
// rule knows positions only: how the tokens came (in what chunks, beside whom, from a shared prefix, after a rejected
// draft) does not show.
#pragma once

#include "kernels/attention_codes.h"
#include "kernels/attention_dense.h"

namespace vivace::VIVACE_ISA {

class ChannelKeys {
 public:
  // Scratch: coded_dim scales and as many minima for each unit of a tile.
  ChannelKeys(const ItemRows& rows, float* scratch)
      : rows_(rows), dim_(coded_dim(4, rows.problem.cache.head_dim)), scales_(scratch) {}

  void begin(int64_t start, int64_t count) {
    num_units_ = (count + KV_UNIT - 1) / KV_UNIT;
    const KVLayer& cache = rows_.problem.cache;
    for (int64_t unit = 0; unit < num_units_; ++unit) {
      const int64_t position = start + KV_UNIT * unit, slot = position % cache.block_size;
      const int64_t block = rows_.block_at(position);
      const uint8_t* keys = cache.key_block(block, rows_.item.kv_head);
      codes_[unit] = keys + dim_ * (4 + slot / 2);
      blocks_[unit] = position / cache.block_size;
      recent_[unit] = cache.recent_slots[block] < 0
                          ? nullptr
                          : reinterpret_cast<const Float16*>(cache.recent_keys(block, rows_.item.kv_head)) + slot;
      for (int64_t d = 0; d < 2 * dim_; d += 16) {
        store(scales_ + unit * 2 * dim_ + d, load16(reinterpret_cast<const BFloat16*>(keys) + d));
      }
    }
  }

  // 16 keys' dimension d.
  VIVACE_INLINE V16 load(int64_t unit, int64_t d) const {
    const float* scales = scales_ + unit * 2 * dim_;
    return multiply_add(nibbles(codes_[unit] + d / 2 * KV_UNIT, d % 2), splat(scales[d]), splat(scales[dim_ + d]));
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    score_tile<NUM_ROWS>(rows_, first, *this, num_units_, scores);
    for (int r = 0; r < NUM_ROWS;) {
      const int64_t block = rows_.position(first + r) / rows_.problem.cache.block_size;
      int same = 1;
      while (r + same < NUM_ROWS && rows_.position(first + r + same) / rows_.problem.cache.block_size == block) ++same;
      const bool together = same == NUM_ROWS;
      for (int64_t unit = 0; unit < num_units_; ++unit) {
        if (blocks_[unit] != block) continue;
        if (together) {
          score_units<NUM_ROWS, 1>(rows_, first, recent(), unit, scores);
        } else {
          for (int i = 0; i < same; ++i) score_units<1, 1>(rows_, first + r + i, recent(), unit, scores);
        }
      }
      r += same;
    }
  }

 private:
  static VIVACE_INLINE V16 nibbles(const uint8_t* from, int64_t upper) {
#if defined(__AVX512F__)
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    const __m512i codes = upper ? _mm512_srli_epi32(bytes, 4) : _mm512_and_si512(bytes, _mm512_set1_epi32(15));
    return {{_mm512_cvtepi32_ps(codes)}};
#else
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(from[i] >> (upper ? 4 : 0) & 15);
    return VIVACE_ISA::load(lanes);
#endif
  }

  UnitKeys<Float16> recent() const {
    UnitKeys<Float16> keys;
    for (int64_t unit = 0; unit < num_units_; ++unit) keys.units[unit] = recent_[unit];
    keys.block_size = rows_.problem.cache.block_size;
    return keys;
  }

  const ItemRows& rows_;
  int64_t dim_;
  float* scales_;
  int64_t num_units_ = 0;
  const uint8_t* codes_[ATTENTION_UNITS];
  const Float16* recent_[ATTENTION_UNITS];
  int64_t blocks_[ATTENTION_UNITS];  // of the sequence
};

class ChannelKeyTile {
 public:
  ChannelKeyTile(const ItemRows& rows, float* scratch) : keys_(rows, scratch), values_(rows) {}

  void begin(int64_t start, int64_t count) {
    keys_.begin(start, count);
    values_.begin(start, count);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, float* scores) const {
    keys_.template score<NUM_ROWS>(first, scores);
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(float* const* accumulators, const float* weights, const Visible* visible,
                                Visible) const {
    values_.template accumulate<NUM_ROWS>(accumulators, weights, visible);
  }

 private:
  ChannelKeys keys_;
  CodedValues<4> values_;
};

}  // namespace vivace::VIVACE_ISA
