// A fixed set of threads that run one function at a time, each on its own contiguous range.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace vivace {

class ThreadPool {
 public:
  // The calling thread counts as one of num_threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Held around everything that one caller runs: two programs on one pool take turns.
  std::mutex& turn() { return turn_; }

  // Calls function(thread_index) once on every thread and returns when all are done. Not re-entrant.
  template <class Function>
  void run(Function&& function) {
    if (num_threads_ == 1) {
      function(0);
      return;
    }
    using Plain = std::remove_reference_t<Function>;
    run_all([](void* context, int thread) { (*static_cast<Plain*>(context))(thread); }, &function);
  }

  // Calls function(begin, end) on contiguous ranges that cover [0, count). Uses as many threads as leave each at
  // least min_share items, so that small work never pays for a wake-up.
  template <class Function>
  void parallel_for(int64_t count, int64_t min_share, Function&& function) {
    const int64_t shares = count / (min_share > 0 ? min_share : 1);
    const int64_t used = shares < num_threads_ ? shares : num_threads_;
    if (used <= 1) {
      if (count > 0) function(int64_t{0}, count);
      return;
    }
    run([&](int thread) {
      if (thread < used) {
        const int64_t begin = count * thread / used;
        const int64_t end = count * (thread + 1) / used;
        if (begin < end) function(begin, end);
      }
    });
  }

 private:
  using Task = void (*)(void* context, int thread);

  void run_all(Task task, void* context);
  void work(int thread);

  const int num_threads_;
  std::mutex turn_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<int32_t> epoch_{0};    // one more for each task
  alignas(64) std::atomic<int32_t> pending_{0};  // threads that have not finished the task
  std::vector<std::thread> threads_;
};

}  // namespace vivace
