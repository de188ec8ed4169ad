// Ceilings of this machine, measured.
#pragma once

#include <vector>

#include "device.h"

namespace vivace {

// Bytes a second that all threads together read from huge pages beyond the caches. Throws std::bad_alloc.
double measure_read_bandwidth(Device& device, size_t num_bytes, int repetitions);

// Operations a second (a multiply-add counts two) of all threads together; 0 where there is no such unit.
double measure_peak(Device& device, double (*loop)(int64_t iterations), int64_t iterations);

// Seconds that an empty task costs: waking all threads that have just finished one, and waiting for the last.
double measure_barrier(Device& device, int repetitions);

// Seconds that the products of `num_rows` rows with each of the matrices, one after the other, take all threads. Their
// activations are zeros: no kernel's time depends on values. Throws std::bad_alloc.
double measure_linear(Device& device, const std::vector<std::shared_ptr<Matrix>>& matrices, int64_t num_rows);

}  // namespace vivace
