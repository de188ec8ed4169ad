// The paged cache of all layers.
#pragma once

#include <utility>
#include <vector>

#include "arena.h"
#include "attention.h"

namespace vivace {

class KVCache {
 public:
  KVCache(KVDtype dtype, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
          int64_t num_blocks);

  const KVLayer& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }
  size_t num_bytes() const { return mapping_.num_bytes(); }

  // Copies whole blocks of every layer, in order: (source, destination). Throws std::invalid_argument.
  void copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs);

 private:
  int64_t num_blocks_;
  int64_t block_size_;
  size_t block_bytes_;  // of one layer's keys, or values
  Mapping mapping_;
  std::vector<KVLayer> layers_;
};

}  // namespace vivace
