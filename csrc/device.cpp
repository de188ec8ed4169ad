#include "device.h"

#include <cstring>

namespace vivace {

std::shared_ptr<Matrix> pack_matrix(Device& device, Layout layout, const uint8_t* stored, int64_t row_stride,
                                    int64_t rows, int64_t columns, std::vector<int32_t> input_order) {
  const size_t num_bytes = packed_bytes(layout, rows, columns);
  Allocation memory = device.arena.allocate(num_bytes);
  const std::lock_guard turn(device.pool.turn());
  device.pool.parallel_for(output_blocks(rows), 1, [&](int64_t begin, int64_t end) {
    pack(layout, stored, row_stride, rows, columns, memory.data, begin, end);
  });
  std::shared_ptr<const std::vector<int32_t>> order;
  if (!input_order.empty()) order = std::make_shared<const std::vector<int32_t>>(std::move(input_order));
  const PackedMatrix packed{layout, rows, columns, memory.data, num_bytes, order ? order->data() : nullptr};
  return std::make_shared<Matrix>(Matrix{packed, memory, order});
}

std::shared_ptr<Vector> copy_vector(Device& device, const float* values, int64_t size) {
  Allocation memory = device.arena.allocate(static_cast<size_t>(size) * sizeof(float));
  std::memcpy(memory.data, values, static_cast<size_t>(size) * sizeof(float));
  return std::make_shared<Vector>(Vector{reinterpret_cast<const float*>(memory.data), size, memory});
}

}  // namespace vivace
