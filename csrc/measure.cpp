#include "measure.h"

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

double measure_barrier(Device& device, int repetitions) {
  const std::lock_guard turn(device.pool.turn());
  device.pool.run([](int) {});  // wakes the threads
  const auto start = Clock::now();
  for (int i = 0; i < repetitions; ++i) device.pool.run([](int) {});
  return seconds_since(start) / repetitions;
}

}  // namespace vivace
