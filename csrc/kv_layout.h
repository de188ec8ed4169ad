// How the paged cache holds keys and values, byte by byte.
//
// f32, f16: a block of one kv head holds its keys transposed, [head_dim, block_size], because a score is then a sum of
// vectors over 16 keys with no sum across lanes; and its values [block_size, head_dim].
//
// bf16: the same in pairs, the operand of the bf16 dot product: keys [head_dim / 2, block_size, 2 dimensions] and
// values [block_size / 2, head_dim, 2 tokens], odd counts rounded up.
//
// int8 and int4: a code c of 8 or 4 bits means scale * c + minimum, both bf16. Blocks are cut into units of 16 tokens.
// int8 has one scale and minimum for each token's vector, int4 one for each 32 dimensions of it. A unit is
//   [groups][16 scales | 16 minima] [codes]
// with the codes in lines of 16 lanes x 4 bytes, the operand of the integer dot product: in keys a lane is a token and
// its bytes are 4 neighbouring dimensions, in values a lane is a dimension and its bytes are 4 neighbouring tokens.
// Of four neighbours, bytes 0 and 2 are the first two and bytes 1 and 3 the others: masks and shifts by 8 make pairs of
// 16-bit numbers of them. Every byte belongs to one token: of the two codes in a byte of int4, the upper one is 4
// dimensions further in keys and 16 dimensions further in values.
//
// int4 with keys per channel (KIVI; Liu et al., 2024): a scale and a minimum for each dimension over the block's
// tokens, [scales][minima][codes of the units], the codes as above. Their float16 originals are kept aside while a query
// may still lie in the block (KVCache::prepare).
#pragma once

#include <cstdint>

namespace vivace {

enum class KVDtype : int { F32, BF16, F16, INT8, INT4, INT4_CHANNEL_KEYS };

static constexpr int64_t KV_UNIT = 16;         // tokens
static constexpr int64_t INT4_GROUP = 32;      // dimensions of one scale
static constexpr int64_t MAX_CODED_DIM = 512;  // 255 * 16383 * 512 is the largest sum of a product, below 2^31

static inline bool is_coded(KVDtype dtype) { return dtype >= KVDtype::INT8; }

static inline int64_t code_bits(KVDtype dtype) { return dtype == KVDtype::INT8 ? 8 : 4; }

static inline int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Dimensions of a coded vector with its padding.
static inline int64_t coded_dim(int64_t bits, int64_t head_dim) {
  return rounded_up(head_dim, bits == 8 ? 16 : INT4_GROUP);
}

static inline int64_t coded_groups(int64_t bits, int64_t head_dim) {
  return bits == 8 ? 1 : coded_dim(bits, head_dim) / INT4_GROUP;
}

static inline int64_t unit_bytes(int64_t bits, int64_t head_dim) {
  return coded_groups(bits, head_dim) * 4 * KV_UNIT + coded_dim(bits, head_dim) * KV_UNIT * bits / 8;
}

static inline int64_t element_bytes(KVDtype dtype) { return dtype == KVDtype::F32 ? 4 : 2; }

// Neighbours that lie together in a lane of bf16 keys (dimensions) and values (tokens).
static inline int64_t elements_a_lane(KVDtype dtype) { return dtype == KVDtype::BF16 ? 2 : 1; }

static inline int64_t coded_block_bytes(KVDtype dtype, int64_t head_dim, int64_t block_size) {
  return block_size / KV_UNIT * unit_bytes(code_bits(dtype), head_dim);
}

// Of one block of one kv head. Coded blocks hold whole units.
static inline int64_t value_block_bytes(KVDtype dtype, int64_t head_dim, int64_t block_size) {
  if (is_coded(dtype)) return coded_block_bytes(dtype, head_dim, block_size);
  return head_dim * rounded_up(block_size, elements_a_lane(dtype)) * element_bytes(dtype);
}

static inline int64_t key_block_bytes(KVDtype dtype, int64_t head_dim, int64_t block_size) {
  if (dtype == KVDtype::INT4_CHANNEL_KEYS) return coded_dim(4, head_dim) * (4 + block_size / 2);
  if (is_coded(dtype)) return coded_block_bytes(dtype, head_dim, block_size);
  return rounded_up(head_dim, elements_a_lane(dtype)) * block_size * element_bytes(dtype);
}

// One layer of the cache.
struct KVLayer {
  uint8_t* keys;
  uint8_t* values;
  KVDtype dtype;
  int64_t num_blocks;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t block_size;
  int64_t key_bytes;    // of one block of one kv head
  int64_t value_bytes;  // the same

  // INT4_CHANNEL_KEYS: float16 keys [num_kv_heads, head_dim, block_size] of block b lie at
  // recent + recent_slots[b] * recent_stride.
  uint8_t* recent;
  int64_t recent_stride;
  const int32_t* recent_slots;

  // A head's blocks lie side by side: a context whose blocks follow each other is one stream to read.
  [[gnu::always_inline]] uint8_t* key_block(int64_t block, int64_t kv_head) const {
    return keys + (kv_head * num_blocks + block) * key_bytes;
  }

  [[gnu::always_inline]] uint8_t* value_block(int64_t block, int64_t kv_head) const {
    return values + (kv_head * num_blocks + block) * value_bytes;
  }

  [[gnu::always_inline]] uint16_t* recent_keys(int64_t block, int64_t kv_head) const {
    return reinterpret_cast<uint16_t*>(recent + recent_slots[block] * recent_stride) +
           kv_head * head_dim * block_size;
  }
};

}  // namespace vivace
