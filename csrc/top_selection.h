// The k best of many in one pass and O(n) time: no sort, no copy of the row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vivace {

struct Candidate {
  float value;
  int32_t id;
};

// Larger values first, the lower id first among equals.
inline bool is_better(const Candidate& a, const Candidate& b) {
  return a.value != b.value ? a.value > b.value : a.id < b.id;
}

// Leaves in `best` the k best of values[0, count), best first. Values that are NaN or -inf are never taken.
inline void select_top(const float* values, int64_t count, int64_t k, std::vector<Candidate>& best) {
  best.clear();
  if (k <= 0) return;
  const size_t wanted = static_cast<size_t>(k);
  // A later id must beat the k-th value strictly. The buffer holds 2k: each halving costs O(k) and admits k more.
  float threshold = -__builtin_inff();
  const auto halve = [&] {
    std::nth_element(best.begin(), best.begin() + static_cast<int64_t>(wanted) - 1, best.end(), is_better);
    best.resize(wanted);
    threshold = best[wanted - 1].value;
  };
  for (int64_t id = 0; id < count; ++id) {
    if (!(values[id] > threshold)) continue;
    best.push_back({values[id], static_cast<int32_t>(id)});
    if (best.size() == 2 * wanted) halve();
  }
  if (best.size() > wanted) halve();
  std::sort(best.begin(), best.end(), is_better);
}

}  // namespace vivace
