// Asking memory for weights while earlier ones are being multiplied.
//
// From two rows on, a tile's arithmetic keeps the processor from running far enough ahead in its stream of weights: at 8
// rows Q8_0 got 60% of a plain read, with pieces fetched into the second-level cache 16 KiB ahead 80 to 90%; at 4 rows
// Q4_0 went from 55% to 90%. The first-level cache as the target gained nothing. At one row fetching cost 10 to 30%.
#pragma once

#include <cstdint>

#include "kernels/vector.h"

namespace vivace::VIVACE_ISA {

// After each `period` pieces that a tile kernel reads, the next piece from `from` on.
struct Fetch {
  const uint8_t* from = nullptr;
  int64_t period = INT64_MAX;
};

// PIECE: bytes that a kernel reads between two steps, rounded up to lines.
template <int PIECE>
class Fetcher {
 public:
  VIVACE_INLINE explicit Fetcher(const Fetch& fetch) : from_(fetch.from), period_(fetch.period), wait_(fetch.period) {}

  VIVACE_INLINE void step() {
    if (--wait_ > 0) return;
    wait_ = period_;
#pragma GCC unroll 32
    for (int at = 0; at < PIECE; at += 64) __builtin_prefetch(from_ + at, 0, 2);
    from_ += PIECE;
  }

 private:
  const uint8_t* from_;
  int64_t period_;
  int64_t wait_;
};

}  // namespace vivace::VIVACE_ISA
