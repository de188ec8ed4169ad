// Work cut into one contiguous share for each thread, from whose ends threads that finished early take pieces.
//
// A thread walks its own share from the front, so that it reads one long stream of memory. A core that a neighbour
// slows down (another process, the other hyper-thread, another virtual machine) then no longer sets the pace for all.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace vivace {

class WorkShares {
 public:
  explicit WorkShares(int num_threads) : num_threads_(num_threads), shares_(new Share[static_cast<size_t>(num_threads)]) {}

  // Before the threads start: thread t owns items [bounds[t], bounds[t + 1]), less than 2^32 of them.
  void reset(const int64_t* bounds) {
    for (int thread = 0; thread < num_threads_; ++thread) {
      shares_[thread].left.store(range(bounds[thread], bounds[thread + 1]), std::memory_order_relaxed);
    }
  }

  // On each thread: calls function(begin, end) with pieces of at most `piece` items until no share has any left.
  template <class Function>
  void work(int thread, int64_t piece, Function&& function) {
    while (take(shares_[thread], piece, true, function)) {}
    for (int other = 1; other < num_threads_; ++other) {
      while (take(shares_[(thread + other) % num_threads_], piece, false, function)) {}
    }
  }

 private:
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};  // begin in the upper half, end in the lower
  };

  static uint64_t range(int64_t begin, int64_t end) {
    return static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end);
  }

  template <class Function>
  static bool take(Share& share, int64_t piece, bool from_front, Function& function) {
    uint64_t left = share.left.load(std::memory_order_relaxed);
    for (;;) {
      const auto begin = static_cast<int64_t>(left >> 32), end = static_cast<int64_t>(left & 0xffffffffu);
      if (begin >= end) return false;
      const int64_t count = piece < end - begin ? piece : end - begin;
      const uint64_t rest = from_front ? range(begin + count, end) : range(begin, end - count);
      if (!share.left.compare_exchange_weak(left, rest, std::memory_order_relaxed)) continue;
      from_front ? function(begin, begin + count) : function(end - count, end);
      return true;
    }
  }

  int num_threads_;
  std::unique_ptr<Share[]> shares_;
};

}  // namespace vivace
