// What every native object of one backend shares: threads, kernels, memory. And the parameters that live there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arena.h"
#include "kernel_table.h"
#include "thread_pool.h"

namespace vivace {

struct Device {
  Device(int num_threads, const KernelTable& kernels) : pool(num_threads), kernels(kernels) {}

  ThreadPool pool;
  const KernelTable& kernels;
  Arena arena;
};

// A packed matrix or a float32 vector, with its memory.
struct Matrix {
  PackedMatrix packed;
  Allocation memory;
  std::shared_ptr<const std::vector<int32_t>> input_order = nullptr;  // what packed.input_order points into, or null
};

struct Vector {
  const float* data;
  int64_t size;
  Allocation memory;
};

// Packs in parallel. `stored` holds `rows` rows, row_stride bytes apart. input_order: empty, or one number a column.
std::shared_ptr<Matrix> pack_matrix(Device& device, Layout layout, const uint8_t* stored, int64_t row_stride,
                                    int64_t rows, int64_t columns, std::vector<int32_t> input_order = {});

std::shared_ptr<Vector> copy_vector(Device& device, const float* values, int64_t size);

}  // namespace vivace
