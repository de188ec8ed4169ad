#include "measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

namespace vivace {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

double measure_read_bandwidth(Device& device, size_t num_bytes, int repetitions) {
  const auto lines = static_cast<int64_t>(num_bytes / 1024);
  const Mapping memory(static_cast<size_t>(lines) * 1024);
  std::vector<float> sums(static_cast<size_t>(device.pool.size()));  // keeps the reads from being dropped
  double best = 0.0;
  const std::lock_guard turn(device.pool.turn());
  const auto on_share = [&](auto&& function) {
    device.pool.run([&](int thread) {
      const int64_t begin = lines * thread / device.pool.size(), end = lines * (thread + 1) / device.pool.size();
      function(thread, memory.data() + begin * 1024, (end - begin) * 1024);
    });
  };
  on_share([](int, uint8_t* data, int64_t size) { std::memset(data, 0, static_cast<size_t>(size)); });
  for (int i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    on_share([&](int thread, uint8_t* data, int64_t size) {
      sums[static_cast<size_t>(thread)] += device.kernels.peak.read(data, size);
    });
    const double rate = static_cast<double>(lines) * 1024.0 / seconds_since(start);
    if (rate > best) best = rate;
  }
  return sums[0] == 0.0f ? best : 0.0;
}

double measure_peak(Device& device, double (*loop)(int64_t iterations), int64_t iterations) {
  std::vector<double> operations(static_cast<size_t>(device.pool.size()));
  const std::lock_guard turn(device.pool.turn());
  device.pool.run([&](int) { loop(iterations / 8); });  // wakes the threads and the clock
  const auto start = Clock::now();
  device.pool.run([&](int thread) { operations[static_cast<size_t>(thread)] = loop(iterations); });
  const double seconds = seconds_since(start);
  double total = 0.0;
  for (double done : operations) total += done;
  return total / seconds;
}

// Each share waits until all have begun, or one thread would take them all.
double measure_barrier(Device& device, int repetitions) {
  const std::lock_guard turn(device.pool.turn());
  std::atomic<int64_t> begun{0};
  int64_t expected = 0;
  const auto meet = [&] {
    expected += device.pool.size();
    device.pool.run([&](int) {
      begun.fetch_add(1);
      while (begun.load() < expected) {}
    });
  };
  meet();  // wakes the threads
  const auto start = Clock::now();
  for (int i = 0; i < repetitions; ++i) meet();
  return seconds_since(start) / repetitions;
}

double measure_linear(Device& device, const std::vector<std::shared_ptr<Matrix>>& matrices, int64_t num_rows) {
  const LinearKernels& linear = device.kernels.linear;
  size_t rows = 1, columns = 1, scratch_bytes = 1;
  for (const auto& matrix : matrices) {
    rows = std::max(rows, static_cast<size_t>(matrix->packed.rows));
    columns = std::max(columns, static_cast<size_t>(matrix->packed.columns));
    scratch_bytes = std::max(scratch_bytes, linear.scratch_bytes(matrix->packed, num_rows));
  }
  const auto count = static_cast<size_t>(num_rows);
  const Mapping x(count * columns * sizeof(float)), y(count * rows * sizeof(float)), scratch(scratch_bytes);
  const auto* from = reinterpret_cast<const float*>(x.data());
  auto* to = reinterpret_cast<float*>(y.data());
  double seconds = 0.0;
  const std::lock_guard turn(device.pool.turn());
  for (const auto& matrix : matrices) {
    const PackedMatrix& packed = matrix->packed;
    linear.prepare(packed, from, packed.columns, num_rows, scratch.data(), 0, num_rows);
    const auto start = Clock::now();
    device.pool.parallel_for(output_blocks(packed.rows), 1, [&](int64_t begin, int64_t end) {
      linear.run(packed, from, packed.columns, scratch.data(), num_rows, to, packed.rows, nullptr, begin, end);
    });
    seconds += seconds_since(start);
  }
  return seconds;
}

}  // namespace vivace
