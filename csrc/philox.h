// Random numbers from a counter: Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, 2011), as ops/random.py draws them.
#pragma once

#include <cstdint>

namespace vivace {

// Uniform in [0, 1), 24 random bits: the first word of counter (position, index, 0, 0) under the key `seed`.
float uniform(uint64_t seed, int32_t index, int32_t position);

}  // namespace vivace
