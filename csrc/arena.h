// Memory for weights, activations and the KV cache: aligned to 2 MiB and offered to the kernel as huge pages.
//
// Reading weights at memory speed needs them: with 4 KiB pages the reference machine's two cores read 41 GB/s, with
// 2 MiB pages 55.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace vivace {

// One mapping, zero-filled; a page takes memory when it is first written.
class Mapping {
 public:
  explicit Mapping(size_t num_bytes);  // throws std::bad_alloc
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data() const { return data_; }
  size_t num_bytes() const { return num_bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t num_bytes_ = 0;
  void* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
};

struct Allocation {
  std::shared_ptr<const void> owner;  // keeps the memory
  uint8_t* data = nullptr;
};

// Hands out zeroed memory from shared mappings, so that neighbouring matrices share huge pages. A mapping is returned
// to the system when its last allocation is dropped.
class Arena {
 public:
  Allocation allocate(size_t num_bytes);

 private:
  std::mutex mutex_;
  std::shared_ptr<Mapping> current_;
  size_t used_ = 0;
};

// Memory whose content does not outlive the call that uses it. Grows to the largest request.
class Scratch {
 public:
  uint8_t* reserve(size_t num_bytes) {
    if (!mapping_ || mapping_->num_bytes() < num_bytes) mapping_ = std::make_unique<Mapping>(num_bytes);
    return mapping_->data();
  }

  float* reserve_floats(int64_t count) {
    return reinterpret_cast<float*>(reserve(static_cast<size_t>(count) * sizeof(float)));
  }

 private:
  std::unique_ptr<Mapping> mapping_;
};

}  // namespace vivace
