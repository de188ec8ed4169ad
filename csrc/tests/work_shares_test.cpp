#include "work_shares.h"

#include <atomic>
#include <vector>

#include "tests/check.h"
#include "thread_pool.h"

namespace vivace {

VIVACE_TEST(work_shares_give_every_item_once) {
  for (int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    WorkShares shares(num_threads);
    for (int64_t count : {0, 1, 7, 100}) {
      for (int64_t piece : {1, 3, 200}) {
        std::vector<int64_t> bounds(static_cast<size_t>(num_threads) + 1, count);
        for (int thread = 0; thread < num_threads; ++thread) bounds[static_cast<size_t>(thread)] = count * thread / num_threads;
        for (int round = 0; round < 50; ++round) {
          std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
          shares.reset(bounds.data());
          pool.run([&](int thread) {
            shares.work(thread, piece, [&](int64_t begin, int64_t end) {
              CHECK(begin < end && end - begin <= piece);
              for (int64_t item = begin; item < end; ++item) visits[static_cast<size_t>(item)].fetch_add(1);
            });
          });
          for (const auto& visit : visits) CHECK(visit.load() == 1);
        }
      }
    }
  }
}

// One thread does everything where the others never come.
VIVACE_TEST(work_shares_are_taken_over) {
  WorkShares shares(3);
  const int64_t bounds[] = {0, 10, 10, 40};
  shares.reset(bounds);
  std::vector<int64_t> begins;
  shares.work(1, 8, [&](int64_t begin, int64_t) { begins.push_back(begin); });
  CHECK((begins == std::vector<int64_t>{32, 24, 16, 10, 2, 0}));
}

}  // namespace vivace
