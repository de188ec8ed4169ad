#include "thread_pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vivace {

namespace {

uint64_t first_share(int32_t epoch) { return static_cast<uint64_t>(static_cast<uint32_t>(epoch)) << 32; }

// Ops of one step follow each other within microseconds, so that a spin of 40 us bridges the gaps between them; a
// sleeping thread costs 5 to 50 us to wake.
constexpr std::chrono::microseconds SPIN_TIME{40};

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `value` differs from `old`: spins, then sleeps.
void wait_for_change(const std::atomic<int32_t>& value, int32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + SPIN_TIME;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {
  threads_.reserve(static_cast<size_t>(num_threads_ - 1));
  for (int thread = 1; thread < num_threads_; ++thread) threads_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run_all(Task task, void* context) {
  task_ = task;
  context_ = context;
  pending_.store(num_threads_, std::memory_order_relaxed);
  const int32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  untaken_.store(first_share(epoch), std::memory_order_release);
  epoch_.store(epoch, std::memory_order_release);
  epoch_.notify_all();
  take_shares(epoch);
  for (int32_t left = pending_.load(std::memory_order_acquire); left != 0;
       left = pending_.load(std::memory_order_acquire)) {
    wait_for_change(pending_, left);
  }
}

// The exchange fails where the task is over, so that the task read after it is this epoch's: it cannot end before the
// share that was taken here.
void ThreadPool::take_shares(int32_t epoch) {
  const uint64_t end = first_share(epoch) + static_cast<uint64_t>(num_threads_);
  uint64_t share = untaken_.load(std::memory_order_acquire);
  while (share >= first_share(epoch) && share < end) {
    if (!untaken_.compare_exchange_weak(share, share + 1, std::memory_order_acq_rel)) continue;
    task_(context_, static_cast<int>(share - first_share(epoch)));
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
    share = untaken_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work() {
  int32_t seen = 0;
  for (;;) {
    wait_for_change(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    take_shares(seen);
  }
}

}  // namespace vivace
