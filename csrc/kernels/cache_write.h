// Writes keys and values of a step's tokens to their slots in the paged cache, and names the attention kernels.
#pragma once

#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cache_move.h"

namespace vivace::VIVACE_ISA {

VIVACE_INLINE V16 first_lanes(const float* from, int64_t count) {
  return count == 16 ? load(from) : load_first(from, count);
}

// Dimensions d .. d + count of one head's key, `place` in its block.
template <class Element>
VIVACE_INLINE void write_key(const Element* narrow, Element* keys, int64_t d, int64_t count, int64_t place,
                             int64_t block_size) {
  if (std::is_same_v<Element, BFloat16> && count == 16) {
    auto* pairs = reinterpret_cast<uint8_t*>(keys + key_index<Element>(d, place, block_size));
#pragma GCC unroll 8
    for (int pair = 0; pair < 8; ++pair) std::memcpy(pairs + pair * block_size * 4, narrow + pair * 2, 4);
    return;
  }
  for (int64_t i = 0; i < count; ++i) keys[key_index<Element>(d + i, place, block_size)] = narrow[i];
}

// The same of a value. A pair's other token may be written by another thread meanwhile.
template <class Element>
VIVACE_INLINE void write_value(const Element* narrow, Element* values, int64_t d, int64_t count, int64_t place,
                               int64_t head_dim) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Element, BFloat16>) {
    if (count == 16) {
      const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(narrow)));
      const bool is_second = place % 2 != 0;
      _mm512_mask_storeu_epi16(values + value_index<Element>(d, place - place % 2, head_dim),
                               is_second ? 0xaaaaaaaau : 0x55555555u, is_second ? _mm512_slli_epi32(wide, 16) : wide);
      return;
    }
  }
#endif
  for (int64_t i = 0; i < count; ++i) values[value_index<Element>(d + i, place, head_dim)] = narrow[i];
}

template <class Element>
void write_row(const KVLayer& cache, int64_t slot, const float* k, const float* v) {
  const int64_t block = slot / cache.block_size, place = slot % cache.block_size;
  for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
    auto* keys = reinterpret_cast<Element*>(cache.key_block(block, head));
    auto* values = reinterpret_cast<Element*>(cache.value_block(block, head));
    for (int64_t d = 0; d < cache.head_dim; d += 16) {
      const int64_t count = cache.head_dim - d < 16 ? cache.head_dim - d : 16;
      Element narrow_keys[16], narrow_values[16];
      store16(narrow_keys, first_lanes(k + head * cache.head_dim + d, count));
      store16(narrow_values, first_lanes(v + head * cache.head_dim + d, count));
      write_key(narrow_keys, keys, d, count, place, cache.block_size);
      write_value(narrow_values, values, d, count, place, cache.head_dim);
    }
  }
}

inline void write_cache(const KVLayer& cache, const int32_t* slots, const float* k, int64_t k_stride, const float* v,
                        int64_t v_stride, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* key = k + row * k_stride;
    const float* value = v + row * v_stride;
    switch (cache.dtype) {
      case KVDtype::F32:
        write_row<float>(cache, slots[row], key, value);
        break;
      case KVDtype::BF16:
        write_row<BFloat16>(cache, slots[row], key, value);
        break;
      case KVDtype::F16:
        write_row<Float16>(cache, slots[row], key, value);
        break;
      case KVDtype::INT8:
        write_coded_row<8>(cache, slots[row], key, value);
        break;
      case KVDtype::INT4:
      case KVDtype::INT4_CHANNEL_KEYS:
        write_coded_row<4>(cache, slots[row], key, value);
        break;
    }
  }
}

extern const AttentionKernels ATTENTION_KERNELS;
const AttentionKernels ATTENTION_KERNELS = {
    .attend = attend,
    .merge = merge_partials,
    .write = write_cache,
    .move = move_tokens,
    .fill = fill_blocks,
};

}  // namespace vivace::VIVACE_ISA
