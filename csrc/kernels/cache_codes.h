// Codes vectors of keys and values as they are written to the cache (ops/reference_kv.py has the definition; the bytes
// are the same on every instruction set).
#pragma once

#include "kernels/attention_codes.h"

namespace vivace::VIVACE_ISA {

// scale * code + minimum, both rounded to bfloat16 away from the data: the minimum down, the scale up, so that every
// element has a code in range. A vector with an element that is not finite gets scale and minimum NaN.
struct Affine {
  uint16_t scale, minimum;
  V16 inverse, shift;

  VIVACE_INLINE Affine(float low, float high, bool broken, float levels) {
    const uint32_t low_bits = float_bits(low);
    uint32_t minimum_bits = low_bits & 0xffff0000;
    if (low_bits >> 31) minimum_bits = (low_bits + 0xffff) & 0xffff0000;
    const float floor = float_of_bits(minimum_bits);
    const uint32_t scale_bits = (float_bits((high - floor) / levels) + 0xffff) & 0xffff0000;
    float step = float_of_bits(scale_bits);
    if (!(step >= 1e-30f)) step = 0.0f;
    scale = broken ? 0x7fc0 : static_cast<uint16_t>(float_bits(step) >> 16);
    minimum = broken ? 0x7fc0 : static_cast<uint16_t>(minimum_bits >> 16);
    inverse = splat(step > 0.0f ? 1.0f / step : 0.0f);
    shift = splat(floor);
  }

  VIVACE_INLINE I16 codes(V16 x, float levels) const {
    return integers(VIVACE_ISA::minimum((x - shift) * inverse, splat(levels)));
  }
};

// Of four neighbours, the byte of each (kv_layout.h).
inline constexpr int64_t BYTE_OF[4] = {0, 2, 1, 3};

VIVACE_INLINE float horizontal_minimum(V16 value) { return -horizontal_maximum(zero() - value); }

// Elements i .. i + 15 of x[0 .. count), the last one repeated behind them: it changes no extreme.
VIVACE_INLINE V16 sixteen(const float* x, int64_t i, int64_t count) {
  if (i + 16 <= count) return load(x + i);
  float filled[16];
  for (int64_t lane = 0; lane < 16; ++lane) filled[lane] = x[i + lane < count ? i + lane : count - 1];
  return load(filled);
}

// Codes x[0 .. count), with zeros up to width (a multiple of 16) behind them.
VIVACE_INLINE Affine encode_group(const float* x, int64_t count, int64_t width, float levels, uint8_t* bytes) {
  V16 low = sixteen(x, 0, count), high = low, broken = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const V16 part = sixteen(x, i, count);
    low = minimum(part, low);
    high = maximum(part, high);
    broken = broken + part * zero();
  }
  const Affine affine(horizontal_minimum(low), horizontal_maximum(high), horizontal_sum(broken) != 0.0f, levels);
  for (int64_t i = 0; i < width; i += 16) store_bytes(bytes + i, affine.codes(sixteen(x, i, count), levels));
  for (int64_t i = count; i < width; ++i) bytes[i] = 0;
  return affine;
}

// Codes one token's vector, and puts a group's scale and minimum in their place of the unit.
template <int BITS>
VIVACE_INLINE void encode_token(const float* x, int64_t head_dim, int64_t token, uint8_t* unit, uint8_t* bytes) {
  constexpr float LEVELS = BITS == 8 ? 255.0f : 15.0f;
  const int64_t groups = coded_groups(BITS, head_dim), width = coded_dim(BITS, head_dim) / groups;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t begin = group * width, count = head_dim - begin < width ? head_dim - begin : width;
    const Affine affine = encode_group(x + begin, count, width, LEVELS, bytes + begin);
    uint16_t* scales = reinterpret_cast<uint16_t*>(unit + group * SCALE_LINE_BYTES);
    scales[token] = affine.scale;
    scales[KV_UNIT + token] = affine.minimum;
  }
}

template <int BITS>
void write_coded_key(const float* key, int64_t head_dim, int64_t token, uint8_t* unit) {
  uint8_t bytes[MAX_CODED_DIM];
  encode_token<BITS>(key, head_dim, token, unit, bytes);
  uint8_t* codes = unit + coded_groups(BITS, head_dim) * SCALE_LINE_BYTES + token * 4;
  for (int64_t d = 0; d < coded_dim(BITS, head_dim); d += BITS == 8 ? 4 : 8) {
    for (int64_t i = 0; i < 4; ++i) {
      codes[BYTE_OF[i]] = BITS == 8 ? bytes[d + i] : static_cast<uint8_t>(bytes[d + i] | bytes[d + 4 + i] << 4);
    }
    codes += LINE_BYTES;
  }
}

template <int BITS>
void write_coded_value(const float* value, int64_t head_dim, int64_t token, uint8_t* unit) {
  constexpr int64_t STEP = BITS == 8 ? 16 : 32;  // dimensions of a line's bytes
  uint8_t bytes[MAX_CODED_DIM];
  encode_token<BITS>(value, head_dim, token, unit, bytes);
  const int64_t dim = coded_dim(BITS, head_dim);
  uint8_t* codes = unit + coded_groups(BITS, head_dim) * SCALE_LINE_BYTES + token / 4 * (dim / STEP) * LINE_BYTES;
  for (int64_t d = 0; d < dim; d += STEP) {
    for (int64_t i = 0; i < 16; ++i) {
      codes[i * 4 + BYTE_OF[token % 4]] =
          BITS == 8 ? bytes[d + i] : static_cast<uint8_t>(bytes[d + i] | bytes[d + 16 + i] << 4);
    }
    codes += LINE_BYTES;
  }
}

template <int BITS>
void write_coded_row(const KVLayer& cache, int64_t slot, const float* k, const float* v) {
  const int64_t block = slot / cache.block_size, place = slot % cache.block_size, head_dim = cache.head_dim;
  const int64_t unit = place / KV_UNIT * unit_bytes(BITS, head_dim), token = place % KV_UNIT;
  for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
    if (cache.dtype == KVDtype::INT4_CHANNEL_KEYS) {
      auto* keys = reinterpret_cast<Float16*>(cache.recent_keys(block, head)) + place;
      for (int64_t d = 0; d < head_dim; ++d) from_float(k[head * head_dim + d], keys[d * cache.block_size]);
    } else {
      write_coded_key<BITS>(k + head * head_dim, head_dim, token, cache.key_block(block, head) + unit);
    }
    write_coded_value<BITS>(v + head * head_dim, head_dim, token, cache.value_block(block, head) + unit);
  }
}

// Codes a full block's keys dimension by dimension from their float16 originals.
inline void fill_block(const KVLayer& cache, int64_t block, int64_t head) {
  const int64_t dim = coded_dim(4, cache.head_dim), block_size = cache.block_size;
  const auto* recent = reinterpret_cast<const Float16*>(cache.recent_keys(block, head));
  uint8_t* keys = cache.key_block(block, head);
  auto* scales = reinterpret_cast<uint16_t*>(keys);
  uint8_t* codes = keys + 4 * dim;
  std::memset(codes, 0, static_cast<size_t>(dim * block_size / 2));
  for (int64_t d = 0; d < cache.head_dim; ++d) {
    V16 low = load16(recent + d * block_size), high = low, broken = zero();
    for (int64_t token = 0; token < block_size; token += KV_UNIT) {
      const V16 part = load16(recent + d * block_size + token);
      low = minimum(part, low);
      high = maximum(part, high);
      broken = broken + part * zero();
    }
    const Affine affine(horizontal_minimum(low), horizontal_maximum(high), horizontal_sum(broken) != 0.0f, 15.0f);
    scales[d] = affine.scale;
    scales[dim + d] = affine.minimum;
    for (int64_t token = 0; token < block_size; token += KV_UNIT) {
      uint8_t bytes[KV_UNIT];
      store_bytes(bytes, affine.codes(load16(recent + d * block_size + token), 15.0f));
      uint8_t* to = codes + token * dim / 2 + d / 8 * LINE_BYTES + BYTE_OF[d % 4];
      for (int64_t i = 0; i < KV_UNIT; ++i) to[i * 4] = static_cast<uint8_t>(to[i * 4] | bytes[i] << (d / 4 % 2 * 4));
    }
  }
}

inline void fill_blocks(const KVLayer& cache, const int32_t* slots, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    if (slots[row] % cache.block_size != cache.block_size - 1) continue;
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) fill_block(cache, slots[row] / cache.block_size, head);
  }
}

}  // namespace vivace::VIVACE_ISA
