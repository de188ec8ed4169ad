// The paged cache of all layers.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "arena.h"
#include "attention.h"

namespace vivace {

class KVCache {
 public:
  // Throws std::invalid_argument where the shape does not fit the dtype, std::bad_alloc.
  KVCache(KVDtype dtype, int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, int64_t block_size,
          int64_t num_blocks);

  const KVLayer& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }
  size_t num_bytes() const { return mapping_.num_bytes(); }

  // Copies whole blocks of every layer, in order: (source, destination). Throws std::invalid_argument.
  void copy_blocks(const std::vector<std::pair<int64_t, int64_t>>& pairs);

  // Copies the keys and values of single tokens in every layer, in order: (source slot, destination slot), a slot being
  // block x block_size + its number in the block. Throws std::invalid_argument.
  void move_tokens(const AttentionKernels& kernels, const std::vector<std::pair<int64_t, int64_t>>& pairs);

  // Makes place for a step's keys in their original precision, where the dtype keeps those of blocks in which queries
  // may still lie, and takes it back from blocks before the first new position of a sequence: these are final.
  // Throws std::invalid_argument where a block's beginning was never written. Not for two threads at once.
  void prepare(const Step& step);

  // Blocks that hold such a place, and the way to take it from blocks that nobody uses.
  std::vector<int32_t> recent_blocks() const;
  void drop_recent(const std::vector<int32_t>& blocks);
  int64_t num_recent() const { return num_recent_slots_ - static_cast<int64_t>(free_recent_slots_.size()); }

 private:
  void take_recent(int64_t block);
  void release_recent(int64_t block);

  int64_t num_blocks_;
  int64_t block_size_;
  Mapping mapping_;
  std::vector<KVLayer> layers_;

  size_t recent_bytes_ = 0;  // of one block's keys, all layers
  std::optional<Mapping> recent_;
  std::vector<int32_t> recent_slots_;       // of each block; -1: none
  std::vector<int32_t> free_recent_slots_;  // the last one freed is taken first: its memory is there
  int64_t num_recent_slots_ = 0;            // ever taken
};

}  // namespace vivace
