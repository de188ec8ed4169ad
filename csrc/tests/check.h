// A test is a function registered by VIVACE_TEST; a failed CHECK names its place and ends the process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace vivace::tests {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}

struct Registration {
  Registration(const char* name, void (*run)()) { all_tests().push_back({name, run}); }
};

}  // namespace vivace::tests

#define VIVACE_TEST(name)                                                   \
  static void name();                                                       \
  static const vivace::tests::Registration registration_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)
