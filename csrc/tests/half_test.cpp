// Every 16-bit pattern survives widening and rounding, and rounding agrees with a definition by neighbours.
#define VIVACE_ISA generic_test
#include "kernels/half.h"

#include <cmath>

#include "tests/check.h"

namespace vivace {
namespace {

using namespace generic_test;

template <class Half>
void check_all() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = to_float(Half{static_cast<uint16_t>(bits)});
    Half back;
    from_float(value, back);
    if (std::isnan(value)) {
      CHECK(std::isnan(to_float(back)));
      continue;
    }
    CHECK(back.bits == bits);
    const float next = to_float(Half{static_cast<uint16_t>(bits + 1)});
    if ((bits & 0x7fff) == 0x7fff || !std::isfinite(value) || !std::isfinite(next)) continue;
    // The middle of two neighbours goes to the even one, and either side of the middle to the nearer one.
    const float middle = static_cast<float>((static_cast<double>(value) + static_cast<double>(next)) / 2);
    from_float(middle, back);
    CHECK(back.bits == (bits & 1 ? bits + 1 : bits));
    from_float(std::nextafter(middle, value), back);
    CHECK(back.bits == bits);
    from_float(std::nextafter(middle, next), back);
    CHECK(back.bits == bits + 1);
  }
}

}  // namespace

VIVACE_TEST(bfloat16_rounds_to_nearest_even) { check_all<BFloat16>(); }

VIVACE_TEST(float16_rounds_to_nearest_even) { check_all<Float16>(); }

}  // namespace vivace
