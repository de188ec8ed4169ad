// Moves one token's keys and values from slot to slot as the cache holds them: no bit changes.
#pragma once

#include "kernels/attention_dense.h"
#include "kernels/cache_codes.h"

namespace vivace::VIVACE_ISA {

// One kv head of one token.
struct TokenPlace {
  const KVLayer& cache;
  int64_t block;
  int64_t head;
  int64_t slot;  // in the block

  VIVACE_INLINE uint8_t* keys() const { return cache.key_block(block, head); }
  VIVACE_INLINE uint8_t* values() const { return cache.value_block(block, head); }
};

template <class Element>
VIVACE_INLINE void move_dense(TokenPlace from, TokenPlace to) {
  const int64_t head_dim = from.cache.head_dim, block_size = from.cache.block_size;
  const auto* from_keys = reinterpret_cast<const Element*>(from.keys());
  const auto* from_values = reinterpret_cast<const Element*>(from.values());
  auto* to_keys = reinterpret_cast<Element*>(to.keys());
  auto* to_values = reinterpret_cast<Element*>(to.values());
  for (int64_t d = 0; d < head_dim; ++d) {
    to_keys[key_index<Element>(d, to.slot, block_size)] = from_keys[key_index<Element>(d, from.slot, block_size)];
    to_values[value_index<Element>(d, to.slot, head_dim)] = from_values[value_index<Element>(d, from.slot, head_dim)];
  }
}

// Scales and minima of a token of a unit.
template <int BITS>
VIVACE_INLINE void move_scales(const uint8_t* from, int64_t from_token, uint8_t* to, int64_t to_token,
                               int64_t head_dim) {
  for (int64_t group = 0; group < coded_groups(BITS, head_dim); ++group) {
    const auto* source = reinterpret_cast<const uint16_t*>(from + group * SCALE_LINE_BYTES) + from_token;
    auto* destination = reinterpret_cast<uint16_t*>(to + group * SCALE_LINE_BYTES) + to_token;
    destination[0] = source[0];
    destination[KV_UNIT] = source[KV_UNIT];
  }
}

template <int BITS>
VIVACE_INLINE void move_coded_key(const uint8_t* from, int64_t from_token, uint8_t* to, int64_t to_token,
                                  int64_t head_dim) {
  move_scales<BITS>(from, from_token, to, to_token, head_dim);
  const int64_t lead = coded_groups(BITS, head_dim) * SCALE_LINE_BYTES, bytes = coded_dim(BITS, head_dim) * BITS / 8;
  for (int64_t byte = 0; byte < bytes; byte += 4) {
    std::memcpy(to + lead + byte / 4 * LINE_BYTES + to_token * 4, from + lead + byte / 4 * LINE_BYTES + from_token * 4, 4);
  }
}

template <int BITS>
VIVACE_INLINE void move_coded_value(const uint8_t* from, int64_t from_token, uint8_t* to, int64_t to_token,
                                    int64_t head_dim) {
  move_scales<BITS>(from, from_token, to, to_token, head_dim);
  const int64_t bytes = coded_dim(BITS, head_dim) * BITS / 8;  // of a token; four tokens fill lines of 64
  const int64_t lead = coded_groups(BITS, head_dim) * SCALE_LINE_BYTES;
  from += lead + from_token / 4 * 4 * bytes + BYTE_OF[from_token % 4];
  to += lead + to_token / 4 * 4 * bytes + BYTE_OF[to_token % 4];
  for (int64_t byte = 0; byte < bytes; ++byte) to[4 * byte] = from[4 * byte];
}

template <int BITS>
VIVACE_INLINE void move_coded(TokenPlace from, TokenPlace to) {
  const int64_t head_dim = from.cache.head_dim, block_size = from.cache.block_size;
  const int64_t from_unit = from.slot / KV_UNIT * unit_bytes(BITS, head_dim), from_token = from.slot % KV_UNIT;
  const int64_t to_unit = to.slot / KV_UNIT * unit_bytes(BITS, head_dim), to_token = to.slot % KV_UNIT;
  if (from.cache.dtype == KVDtype::INT4_CHANNEL_KEYS) {
    const uint16_t* source = from.cache.recent_keys(from.block, from.head) + from.slot;
    uint16_t* destination = to.cache.recent_keys(to.block, to.head) + to.slot;
    for (int64_t d = 0; d < head_dim; ++d) destination[d * block_size] = source[d * block_size];
  } else {
    move_coded_key<BITS>(from.keys() + from_unit, from_token, to.keys() + to_unit, to_token, head_dim);
  }
  move_coded_value<BITS>(from.values() + from_unit, from_token, to.values() + to_unit, to_token, head_dim);
}

// The layers have one shape and type. Keys that are coded by channel go as their originals.
inline void move_token(TokenPlace from, TokenPlace to) {
  switch (from.cache.dtype) {
    case KVDtype::F32:
      return move_dense<float>(from, to);
    case KVDtype::BF16:
      return move_dense<BFloat16>(from, to);
    case KVDtype::F16:
      return move_dense<Float16>(from, to);
    case KVDtype::INT8:
      return move_coded<8>(from, to);
    case KVDtype::INT4:
    case KVDtype::INT4_CHANNEL_KEYS:
      return move_coded<4>(from, to);
  }
}

// In order; a block that gets its last token is coded by channel where its keys are.
inline void move_tokens(const KVLayer& cache, const SlotMove* moves, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = cache.block_size, from = moves[i].from, to = moves[i].to;
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
      move_token({cache, from / size, head, from % size}, {cache, to / size, head, to % size});
    }
    if (cache.dtype != KVDtype::INT4_CHANNEL_KEYS || to % size != size - 1) continue;
    for (int64_t head = 0; head < cache.num_kv_heads; ++head) fill_block(cache, to / size, head);
  }
}

}  // namespace vivace::VIVACE_ISA
