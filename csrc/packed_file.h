// Packed matrices as bytes: mapped or read from a cache file, summed, copied.
#pragma once

#include "device.h"

namespace vivace {

// The sum that tells whether packed bytes are those that were written: 64 bits in the manner of XXH3, over pieces of
// 2 MiB each alone, so that threads share the work. It runs at the speed of memory on any processor. It finds accidents,
// not forgers.
uint64_t packed_checksum(Device& device, const uint8_t* data, size_t num_bytes);

// A file, mapped from a huge page's boundary on. Matrices taken from it keep the mapping, not the file.
class PackedFile {
 public:
  explicit PackedFile(int file);  // of a descriptor that stays the caller's; throws std::bad_alloc
  ~PackedFile();
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  const uint8_t* data() const { return mapping_.get(); }
  size_t num_bytes() const { return num_bytes_; }

  // Reads a byte in each of `count` places all over the file, for their pages to be mapped.
  void touch(int count) const;

  // The matrix at `offset`, in the mapping itself or copied into the device's memory. Null if the file is too short,
  // cannot be read, or its bytes do not have the checksum. input_order as in pack_matrix.
  std::shared_ptr<Matrix> matrix(Device& device, Layout layout, int64_t rows, int64_t columns, int64_t offset,
                                 uint64_t checksum, bool copied, std::vector<int32_t> input_order = {}) const;

 private:
  int file_ = -1;
  size_t num_bytes_ = 0;
  std::shared_ptr<const uint8_t> mapping_;
};

// The same matrix in memory of its own.
std::shared_ptr<Matrix> copy_matrix(Device& device, const Matrix& matrix);

}  // namespace vivace
