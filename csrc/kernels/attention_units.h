// Where a chunk's units of 16 tokens lie, and which to ask for while one is computed on.
#pragma once

#include "kernels/attention_rows.h"

namespace vivace::VIVACE_ISA {

// Blocks that lie apart are not foreseen by hardware, so units are asked for a little ahead: keys, then the chunk's
// values, then the next chunk's keys. A core has about 24 requests to memory in flight.
inline constexpr int64_t UNITS_AHEAD = 4;

class ChunkUnits {
 public:
  const uint8_t* keys[CHUNK_UNITS];
  const uint8_t* values[CHUNK_UNITS];
  int64_t blocks[CHUNK_UNITS];  // of the sequence
  int64_t slots[CHUNK_UNITS];   // of the unit's first token in its block
  int64_t first = 0, last = 0;  // units [first, last) are there

  // The units of `any` of the chunk at `start`. key_at(block address, slot) and value_at give a unit's address.
  template <class KeyAt, class ValueAt>
  VIVACE_INLINE void locate(const ItemRows& rows, int64_t start, Visible any, bool has_next, KeyAt key_at,
                            ValueAt value_at) {
    const KVLayer& cache = rows.problem.cache;
    first = any.first_unit();
    last = any.last_unit();
    int64_t block = (start + KV_UNIT * first) / cache.block_size;
    int64_t slot = (start + KV_UNIT * first) % cache.block_size;
    for (int64_t unit = first; unit < last; ++unit) {
      keys[unit] = key_at(rows.key_block(block), slot);
      values[unit] = value_at(rows.value_block(block), slot);
      blocks[unit] = block;
      slots[unit] = slot;
      slot += KV_UNIT;
      if (slot == cache.block_size) ++block, slot = 0;
    }
    for (int64_t unit = 0; unit < UNITS_AHEAD; ++unit) {
      const bool is_there = has_next && start + KV_UNIT * (last + unit) <= rows.position(rows.count - 1);
      next_keys_[unit] =
          is_there ? key_at(rows.key_block(block), slot) : values[last - 1];
      slot += KV_UNIT;
      if (slot == cache.block_size) ++block, slot = 0;
    }
  }

  VIVACE_INLINE const uint8_t* after_keys(int64_t unit) const {
    const int64_t ahead = unit + UNITS_AHEAD;
    return ahead < last ? keys[ahead] : values[ahead - last + first < last ? ahead - last + first : first];
  }

  VIVACE_INLINE const uint8_t* after_values(int64_t unit) const {
    const int64_t ahead = unit + UNITS_AHEAD;
    return ahead < last ? values[ahead] : next_keys_[ahead - last < UNITS_AHEAD ? ahead - last : 0];
  }

 private:
  const uint8_t* next_keys_[UNITS_AHEAD];
};

VIVACE_INLINE void prefetch(const uint8_t* from, int64_t num_bytes) {
  for (int64_t byte = 0; byte < num_bytes; byte += 64) __builtin_prefetch(from + byte, 0, 2);
}

}  // namespace vivace::VIVACE_ISA
