#include "philox.h"

#include "tests/check.h"

namespace vivace {

// The first known answer of Random123's philox4x32-10: words 6627e8d5 ... of counter 0 under key 0.
VIVACE_TEST(philox_has_the_published_first_word) {
  CHECK(uniform(0, 0, 0) == static_cast<float>(0x6627e8) * 0x1p-24f);
  CHECK(uniform(1, 0, 0) != uniform(0, 1, 0));
  CHECK(uniform(uint64_t{1} << 32, 0, 0) != uniform(1, 0, 0));
}

}  // namespace vivace
