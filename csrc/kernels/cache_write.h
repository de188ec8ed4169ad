// Writes keys and values of a step's tokens to their slots in the paged cache, and names the attention kernels.
#pragma once

#include "kernels/attention.h"
#include "kernels/cache_move.h"

namespace vivace::VIVACE_ISA {

VIVACE_INLINE V16 first_lanes(const float* from, int64_t count) {
  return count == 16 ? load(from) : load_first(from, count);
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
      for (int64_t i = 0; i < count; ++i) {
        keys[key_index<Element>(d + i, place, cache.block_size)] = narrow_keys[i];
        values[value_index<Element>(d + i, place, cache.head_dim)] = narrow_values[i];
      }
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
