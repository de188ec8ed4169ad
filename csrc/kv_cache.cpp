#include "kv_cache.h"

#include <cstring>
#include <new>
#include <stdexcept>

namespace vivace {

namespace {

size_t element_bytes(KVDtype dtype) { return dtype == KVDtype::F32 ? 4 : 2; }

size_t checked_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors) {
    if (factor < 1) throw std::invalid_argument("every dimension of a KV cache must be at least 1");
    if (__builtin_mul_overflow(product, factor, &product)) throw std::bad_alloc();
  }
  return static_cast<size_t>(product);
}

}  // namespace

KVCache::KVCache(KVDtype dtype, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                 int64_t num_blocks)
    : num_blocks_(num_blocks),
      block_size_(block_size),
      block_bytes_(checked_product({num_kv_heads, head_dim, block_size, static_cast<int64_t>(element_bytes(dtype))})),
      mapping_(checked_product({2, num_layers, num_blocks, static_cast<int64_t>(block_bytes_)})) {
  const size_t half = block_bytes_ * static_cast<size_t>(num_blocks);
  for (size_t index = 0; index < static_cast<size_t>(num_layers); ++index) {
    uint8_t* keys = mapping_.data() + 2 * index * half;
    layers_.push_back({keys, keys + half, dtype, num_kv_heads, head_dim, block_size});
  }
}

void KVCache::copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  for (const auto& [source, destination] : pairs) {
    if (source < 0 || source >= num_blocks_ || destination < 0 || destination >= num_blocks_) {
      throw std::invalid_argument("copy_blocks: block id out of range");
    }
    if (source == destination) continue;
    for (const KVLayer& layer : layers_) {
      for (uint8_t* half : {layer.keys, layer.values}) {
        std::memcpy(half + static_cast<size_t>(destination) * block_bytes_,
                    half + static_cast<size_t>(source) * block_bytes_, block_bytes_);
      }
    }
  }
}

}  // namespace vivace
