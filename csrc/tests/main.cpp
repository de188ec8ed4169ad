// Runs every native test; exits with 1 at the first failed check. Built with sanitizers by VIVACE_SANITIZE=ON.
#include <cstdio>

#include "tests/check.h"

int main() {
  for (const vivace::tests::Test& test : vivace::tests::all_tests()) {
    std::printf("%s\n", test.name);
    test.run();
  }
  return 0;
}
