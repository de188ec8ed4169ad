// Writes keys and values of a step's tokens to their slots in the paged cache, and names the attention kernels.
#pragma once

#include "kernels/attention.h"

namespace vivace::VIVACE_ISA {

template <class Element>
void write_row(const KVLayer& cache, int64_t slot, const float* k, const float* v) {
  const int64_t block = slot / cache.block_size, place = slot % cache.block_size;
  const int64_t block_elements = cache.head_dim * cache.block_size;
  for (int64_t head = 0; head < cache.num_kv_heads; ++head) {
    const int64_t base = (block * cache.num_kv_heads + head) * block_elements;
    Element* keys = reinterpret_cast<Element*>(cache.keys) + base + place;
    Element* values = reinterpret_cast<Element*>(cache.values) + base + place * cache.head_dim;
    for (int64_t d = 0; d < cache.head_dim; ++d) {
      from_float(k[head * cache.head_dim + d], keys[d * cache.block_size]);
      from_float(v[head * cache.head_dim + d], values[d]);
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
    }
  }
}

inline constexpr AttentionKernels ATTENTION_KERNELS = {
    .attend = attend,
    .merge = merge_partials,
    .write = write_cache,
};

}  // namespace vivace::VIVACE_ISA
