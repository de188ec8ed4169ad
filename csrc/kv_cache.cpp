#include "kv_cache.h"

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

namespace vivace {

namespace {

size_t checked_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (int64_t factor : factors) {
    if (factor < 1) throw std::invalid_argument("every dimension of a KV cache must be at least 1");
    if (__builtin_mul_overflow(product, factor, &product)) throw std::bad_alloc();
  }
  return static_cast<size_t>(product);
}

// Of one layer's block. The products of a block are small once these checks have passed.
int64_t checked_block_bytes(KVDtype dtype, int64_t num_kv_heads, int64_t head_dim, int64_t block_size) {
  checked_product({num_kv_heads, head_dim, block_size, 16});
  if (is_coded(dtype) && (block_size % KV_UNIT != 0 || head_dim > MAX_CODED_DIM)) {
    throw std::invalid_argument("an int8 or int4 KV cache needs a block size that is a multiple of " +
                                std::to_string(KV_UNIT) + " and a head_dim of at most " +
                                std::to_string(MAX_CODED_DIM));
  }
  return num_kv_heads *
         (key_block_bytes(dtype, head_dim, block_size) + value_block_bytes(dtype, head_dim, block_size));
}

}  // namespace

KVCache::KVCache(KVDtype dtype, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
                 int64_t num_blocks)
    : num_blocks_(num_blocks),
      block_size_(block_size),
      mapping_(checked_product(
          {num_layers, num_blocks, checked_block_bytes(dtype, num_kv_heads, head_dim, block_size)})) {
  const int64_t key_bytes = key_block_bytes(dtype, head_dim, block_size);
  const int64_t value_bytes = value_block_bytes(dtype, head_dim, block_size);
  const size_t recent_layer_bytes = static_cast<size_t>(num_kv_heads * head_dim * block_size) * sizeof(uint16_t);
  if (dtype == KVDtype::INT4_CHANNEL_KEYS) {
    recent_bytes_ = static_cast<size_t>(num_layers) * recent_layer_bytes;
    recent_.emplace(checked_product({num_blocks, static_cast<int64_t>(recent_bytes_)}));
    recent_slots_.assign(static_cast<size_t>(num_blocks), -1);
  }
  uint8_t* data = mapping_.data();
  for (size_t index = 0; index < static_cast<size_t>(num_layers); ++index) {
    uint8_t* keys = data;
    uint8_t* values = keys + num_blocks * num_kv_heads * key_bytes;
    data = values + num_blocks * num_kv_heads * value_bytes;
    layers_.push_back({.keys = keys,
                       .values = values,
                       .dtype = dtype,
                       .num_blocks = num_blocks,
                       .num_kv_heads = num_kv_heads,
                       .head_dim = head_dim,
                       .block_size = block_size,
                       .key_bytes = key_bytes,
                       .value_bytes = value_bytes,
                       .recent = recent_ ? recent_->data() + index * recent_layer_bytes : nullptr,
                       .recent_stride = static_cast<int64_t>(recent_bytes_),
                       .recent_slots = recent_slots_.data()});
  }
}

void KVCache::copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  for (const auto& [source, destination] : pairs) {
    if (source < 0 || source >= num_blocks_ || destination < 0 || destination >= num_blocks_) {
      throw std::invalid_argument("copy_blocks: block id out of range");
    }
    if (source == destination) continue;
    for (const KVLayer& layer : layers_) {
      for (int64_t head = 0; head < layer.num_kv_heads; ++head) {
        std::memcpy(layer.key_block(destination, head), layer.key_block(source, head),
                    static_cast<size_t>(layer.key_bytes));
        std::memcpy(layer.value_block(destination, head), layer.value_block(source, head),
                    static_cast<size_t>(layer.value_bytes));
      }
    }
    if (!recent_) continue;
    const int32_t from = recent_slots_[static_cast<size_t>(source)];
    if (from < 0) {
      release_recent(destination);
    } else {
      take_recent(destination);
      const int32_t to = recent_slots_[static_cast<size_t>(destination)];
      std::memcpy(recent_->data() + static_cast<size_t>(to) * recent_bytes_,
                  recent_->data() + static_cast<size_t>(from) * recent_bytes_, recent_bytes_);
    }
  }
}

void KVCache::move_tokens(const AttentionKernels& kernels, const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  std::vector<SlotMove> moves;
  const int64_t num_slots = num_blocks_ * block_size_;
  for (const auto& [source, destination] : pairs) {
    if (source < 0 || source >= num_slots || destination < 0 || destination >= num_slots) {
      throw std::invalid_argument("move_tokens: slot out of range");
    }
    for (const int64_t slot : {source, destination}) {
      if (recent_ && recent_slots_[static_cast<size_t>(slot / block_size_)] < 0) {
        throw std::invalid_argument("move_tokens: the originals of block " + std::to_string(slot / block_size_) +
                                    " were dropped");
      }
    }
    moves.push_back({source, destination});
  }
  for (const KVLayer& layer : layers_) kernels.move(layer, moves.data(), static_cast<int64_t>(moves.size()));
}

void KVCache::prepare(const Step& step) {
  if (!recent_) return;
  for (int64_t b = 0; b < step.num_sequences; ++b) {
    const int64_t new_tokens = step.query_starts[b + 1] - step.query_starts[b];
    // What lies before a guess with a parent may be a guess too.
    if (step.parents && new_tokens == 1 && step.parents[step.query_starts[b]] >= 0) continue;
    const int32_t* table = step.block_tables + b * step.table_width;
    for (int64_t index = (step.context_lens[b] - new_tokens) / block_size_ - 1; index >= 0; --index) {
      if (recent_slots_[static_cast<size_t>(table[index])] < 0) break;
      release_recent(table[index]);
    }
  }
  for (int64_t token = 0; token < step.num_tokens; ++token) {
    const int64_t block = step.slots[token] / block_size_;
    if (recent_slots_[static_cast<size_t>(block)] >= 0) continue;
    if (step.slots[token] % block_size_ != 0) {
      throw std::invalid_argument("block " + std::to_string(block) + " is continued, but its beginning was dropped");
    }
    take_recent(block);
  }
}

std::vector<int32_t> KVCache::recent_blocks() const {
  std::vector<int32_t> blocks;
  for (size_t block = 0; block < recent_slots_.size(); ++block) {
    if (recent_slots_[block] >= 0) blocks.push_back(static_cast<int32_t>(block));
  }
  return blocks;
}

void KVCache::drop_recent(const std::vector<int32_t>& blocks) {
  for (int32_t block : blocks) {
    if (block < 0 || static_cast<size_t>(block) >= recent_slots_.size()) {
      throw std::invalid_argument("drop_recent: block id out of range");
    }
    release_recent(block);
  }
}

void KVCache::take_recent(int64_t block) {
  int32_t& slot = recent_slots_[static_cast<size_t>(block)];
  if (slot >= 0) return;
  if (free_recent_slots_.empty()) {
    slot = static_cast<int32_t>(num_recent_slots_++);
  } else {
    slot = free_recent_slots_.back();
    free_recent_slots_.pop_back();
  }
}

void KVCache::release_recent(int64_t block) {
  int32_t& slot = recent_slots_[static_cast<size_t>(block)];
  if (slot < 0) return;
  free_recent_slots_.push_back(slot);
  slot = -1;
}

}  // namespace vivace
