#include "thread_pool.h"

#include <atomic>
#include <vector>

#include "tests/check.h"

namespace vivace {

VIVACE_TEST(thread_pool_covers_every_index_once) {
  for (int num_threads : {1, 2, 3, 7}) {
    ThreadPool pool(num_threads);
    for (int64_t count : {0, 1, 2, 5, 100}) {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
        pool.parallel_for(count, round % 3, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) visits[static_cast<size_t>(i)].fetch_add(1);
        });
        for (const auto& visit : visits) CHECK(visit.load() == 1);
      }
    }
  }
}

VIVACE_TEST(thread_pool_gives_every_share_once_in_every_task) {
  for (int num_threads : {1, 2, 3, 7}) {
    ThreadPool pool(num_threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(num_threads));
      pool.run([&](int share) { visits[static_cast<size_t>(share)].fetch_add(1); });
      for (const auto& visit : visits) CHECK(visit.load() == 1);
    }
  }
}

}  // namespace vivace
