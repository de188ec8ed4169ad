// Chunks of float keys and values: products of scores and of weights with values.
//
// Where the instruction set has products of bf16, queries and weights of a bf16 cache are rounded to bf16 too, an error
// like that of the cache itself, and two dimensions or tokens cost one operation; everything else computes in float32.
// Every sum runs over one index in one order, so no blocking of rows and columns changes a bit.
#pragma once

#include <type_traits>

#include "kernels/attention_units.h"
#include "linear/codes.h"

namespace vivace::VIVACE_ISA {

// Where dimension d of the token at a block's slot lies (kv_layout.h).
template <class Element>
VIVACE_INLINE int64_t key_index(int64_t d, int64_t slot, int64_t block_size) {
  if constexpr (std::is_same_v<Element, BFloat16>) return (d / 2 * block_size + slot) * 2 + d % 2;
  return d * block_size + slot;
}

template <class Element>
VIVACE_INLINE int64_t value_index(int64_t d, int64_t slot, int64_t head_dim) {
  if constexpr (std::is_same_v<Element, BFloat16>) return (slot / 2 * head_dim + d) * 2 + slot % 2;
  return slot * head_dim + d;
}

// Sixteen lanes of cached elements, and the step of a sum over them with one operand for all lanes.
template <class Element>
struct Lanes {
  static constexpr int64_t ELEMENTS = 1;  // a lane
  using Operand = float;
  using Weight = float;

  V16 value;

  VIVACE_INLINE static Lanes read(const Element* from) { return {load16(from)}; }
  VIVACE_INLINE V16 add(V16 sum, const Operand* operand) const { return multiply_add(value, splat(*operand), sum); }
};

template <>
struct Lanes<BFloat16> {
  static constexpr int64_t ELEMENTS = 2;
  IntRegister part[V16_REGISTERS];

  VIVACE_INLINE static Lanes read(const BFloat16* from) {
    Lanes out;
    std::memcpy(&out, from, sizeof out);
    return out;
  }

  // Without the second (or first) of the pair.
  VIVACE_INLINE Lanes only(bool second) const {
    Lanes out;
    VIVACE_EACH out.part[i] = part[i] & (IntRegister{} + (second ? static_cast<int32_t>(0xffff0000u) : 0xffff));
    return out;
  }

#if defined(__AVX512BF16__)
  using Operand = int32_t;
  using Weight = BFloat16;

  VIVACE_INLINE V16 add(V16 sum, const Operand* operand) const {
    const int32_t pair = load_int(reinterpret_cast<const uint8_t*>(operand));
    sum.part[0] = _mm512_dpbf16_ps(sum.part[0], (__m512bh)part[0], (__m512bh)_mm512_set1_epi32(pair));
    return sum;
  }
#else
  struct Operand {
    float first, second;
  };
  using Weight = float;

  VIVACE_INLINE V16 add(V16 sum, const Operand* operand) const {
    V16 first, second;
    VIVACE_EACH first.part[i] = (FloatRegister)(part[i] << 16);
    VIVACE_EACH second.part[i] = (FloatRegister)(part[i] & (IntRegister{} + static_cast<int32_t>(0xffff0000u)));
    return multiply_add(second, splat(operand->second), multiply_add(first, splat(operand->first), sum));
  }
#endif
};

template <class Element>
class DenseChunk {
 public:
  using Line = Lanes<Element>;
  using Operand = typename Line::Operand;
  using Weight = typename Line::Weight;

  DenseChunk(const ItemRows& rows, float* scratch, float* weights)
      : rows_(rows), padded_(padded_head_dim(rows.problem.cache.head_dim)), weights_(weights),
        queries_(reinterpret_cast<Weight*>(scratch)),
        regrouped_(reinterpret_cast<Element*>(scratch + rows.count * padded_)) {
    const KVLayer& cache = rows.problem.cache;
    regroups_ = cache.block_size % KV_UNIT != 0 || cache.head_dim != padded_;
    token_stride_ = regroups_ ? KV_UNIT : cache.block_size;
    for (int64_t index = 0; index < rows.count; ++index) {
      for (int64_t d = 0; d < padded_; d += 16) {
        store16(queries_ + index * padded_ + d, query_part(rows, index, d) * splat(rows.problem.scale));
      }
    }
  }

  void begin(int64_t start, Visible any, bool has_next) {
    if (regroups_) {
      regroup(start, any);
      return;
    }
    units_.locate(
        rows_, start, any, has_next,
        [&](uint8_t* block, int64_t slot) { return block + slot * Line::ELEMENTS * sizeof(Element); },
        [&](uint8_t* block, int64_t slot) { return block + slot * padded_ * sizeof(Element); });
  }

  template <int NUM_ROWS>
  VIVACE_INLINE void score(int64_t first, Visible any, float* scores) const {
    int64_t unit = any.first_unit();
    for (; unit + BLOCK_VECTORS <= any.last_unit(); unit += BLOCK_VECTORS) {
      score_units<NUM_ROWS, BLOCK_VECTORS>(first, unit, scores);
    }
    for (; unit < any.last_unit(); ++unit) score_units<NUM_ROWS, 1>(first, unit, scores);
  }

  VIVACE_INLINE Weight* weights(float*) const { return reinterpret_cast<Weight*>(weights_); }

  template <int NUM_ROWS>
  VIVACE_INLINE void accumulate(int64_t first, const Weight* weights, const Visible*, Visible any,
                                float* const* accumulators) const {
    int64_t d = 0;
    for (; d + 16 * BLOCK_VECTORS <= padded_; d += 16 * BLOCK_VECTORS) {
      accumulate_vectors<NUM_ROWS, BLOCK_VECTORS>(first, accumulators, weights, d, any);
    }
    for (; d < padded_; d += 16) accumulate_vectors<NUM_ROWS, 1>(first, accumulators, weights, d, any);
  }

 private:
  VIVACE_INLINE const Operand* query(int64_t index) const {
    return reinterpret_cast<const Operand*>(queries_ + index * padded_);
  }

  // scores[r][key] = q_r . key for NUM_ROWS rows and NUM_UNITS units.
  template <int NUM_ROWS, int NUM_UNITS>
  VIVACE_INLINE void score_units(int64_t first, int64_t unit, float* scores) const {
    const Element* keys[NUM_UNITS];
    const uint8_t* ahead[NUM_UNITS];
    for (int u = 0; u < NUM_UNITS; ++u) {
      keys[u] = reinterpret_cast<const Element*>(units_.keys[unit + u]);
      ahead[u] = regroups_ ? units_.keys[unit + u] : units_.after_keys(unit + u);
    }
    V16 sums[NUM_ROWS][NUM_UNITS];
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int u = 0; u < NUM_UNITS; ++u) sums[r][u] = zero();
    }
    const int64_t stride = token_stride_ * Line::ELEMENTS, last = padded_ / Line::ELEMENTS;
    for (int64_t i = 0; i < last; ++i) {
      Line key[NUM_UNITS];
      for (int u = 0; u < NUM_UNITS; ++u) key[u] = Line::read(keys[u] + i * stride);
      if (first == 0) {
        for (int u = 0; u < NUM_UNITS; ++u) __builtin_prefetch(ahead[u] + i * stride * sizeof(Element), 0, 2);
      }
      for (int r = 0; r < NUM_ROWS; ++r) {
        for (int u = 0; u < NUM_UNITS; ++u) sums[r][u] = key[u].add(sums[r][u], query(first + r) + i);
      }
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int u = 0; u < NUM_UNITS; ++u) store(scores + r * ATTENTION_CHUNK + KV_UNIT * (unit + u), sums[r][u]);
    }
  }

  // Dimensions d .. of NUM_ROWS accumulators = weights x values over the keys of `any`.
  template <int NUM_ROWS, int NUM_VECTORS>
  VIVACE_INLINE void accumulate_vectors(int64_t first, float* const* accumulators, const Weight* weights, int64_t d,
                                        Visible any) const {
    V16 sums[NUM_ROWS][NUM_VECTORS];
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = zero();
    }
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      const auto* values = reinterpret_cast<const Element*>(units_.values[unit]) + d * Line::ELEMENTS;
      const uint8_t* ahead = regroups_ ? units_.values[unit] : units_.after_values(unit);
      const int64_t begin = any.begin > KV_UNIT * unit ? any.begin - KV_UNIT * unit : 0;
      const int64_t end = any.end < KV_UNIT * (unit + 1) ? any.end - KV_UNIT * unit : KV_UNIT;
      for (int64_t token = begin / Line::ELEMENTS * Line::ELEMENTS; token < end; token += Line::ELEMENTS) {
        Line value[NUM_VECTORS];
        for (int v = 0; v < NUM_VECTORS; ++v) value[v] = Line::read(values + token * padded_ + 16 * v * Line::ELEMENTS);
        if constexpr (Line::ELEMENTS == 2) {
          // The other one of a pair may never have been written.
          if (token < begin || token + 1 == end) {
            for (int v = 0; v < NUM_VECTORS; ++v) value[v] = value[v].only(token < begin);
          }
        }
        if (first == 0) {
          for (int v = 0; v < NUM_VECTORS; ++v) {
            __builtin_prefetch(ahead + (token * padded_ + (d + 16 * v) * Line::ELEMENTS) * sizeof(Element), 0, 2);
          }
        }
        for (int r = 0; r < NUM_ROWS; ++r) {
          const auto* weight = reinterpret_cast<const Operand*>(weights + r * ATTENTION_CHUNK + KV_UNIT * unit + token);
          for (int v = 0; v < NUM_VECTORS; ++v) sums[r][v] = value[v].add(sums[r][v], weight);
        }
      }
    }
    for (int r = 0; r < NUM_ROWS; ++r) {
      for (int v = 0; v < NUM_VECTORS; ++v) store(accumulators[r] + d + 16 * v, sums[r][v]);
    }
  }

  // Copies the chunk's visible keys and values to whole units in scratch, with zeros behind head_dim and the last key.
  void regroup(int64_t start, Visible any) {
    const KVLayer& cache = rows_.problem.cache;
    const int64_t unit_elements = KV_UNIT * padded_, head_dim = cache.head_dim;
    for (int64_t unit = any.first_unit(); unit < any.last_unit(); ++unit) {
      Element* keys = regrouped_ + 2 * unit * unit_elements;
      Element* values = keys + unit_elements;
      units_.keys[unit] = reinterpret_cast<const uint8_t*>(keys);
      units_.values[unit] = reinterpret_cast<const uint8_t*>(values);
      std::memset(keys, 0, static_cast<size_t>(2 * unit_elements) * sizeof(Element));
      for (int64_t key = KV_UNIT * unit; key < KV_UNIT * (unit + 1); ++key) {
        if (key < any.begin || key >= any.end) continue;
        const int64_t block = (start + key) / cache.block_size, slot = (start + key) % cache.block_size;
        const auto* from_keys = reinterpret_cast<const Element*>(rows_.key_block(block));
        const auto* from_values = reinterpret_cast<const Element*>(rows_.value_block(block));
        const int64_t lane = key % KV_UNIT;
        for (int64_t d = 0; d < head_dim; ++d) {
          keys[key_index<Element>(d, lane, KV_UNIT)] = from_keys[key_index<Element>(d, slot, cache.block_size)];
          values[value_index<Element>(d, lane, padded_)] = from_values[value_index<Element>(d, slot, head_dim)];
        }
      }
    }
  }

  const ItemRows& rows_;
  int64_t padded_;
  float* weights_;
  Weight* queries_;       // x the problem's scale
  Element* regrouped_;    // [units][keys, values]
  bool regroups_;         // blocks are not whole units
  int64_t token_stride_;  // lanes from one step of the keys' sum to the next
  ChunkUnits units_;
};

}  // namespace vivace::VIVACE_ISA
