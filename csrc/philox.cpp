#include "philox.h"

namespace vivace {

namespace {

constexpr int NUM_ROUNDS = 10;
constexpr uint64_t MULTIPLIER_0 = 0xd2511f53u, MULTIPLIER_1 = 0xcd9e8d57u;
constexpr uint32_t KEY_STEP_0 = 0x9e3779b9u, KEY_STEP_1 = 0xbb67ae85u;

uint32_t high(uint64_t product) { return static_cast<uint32_t>(product >> 32); }
uint32_t low(uint64_t product) { return static_cast<uint32_t>(product & 0xffffffffu); }

}  // namespace

float uniform(uint64_t seed, int32_t index, int32_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(index), c2 = 0, c3 = 0;
  uint32_t k0 = low(seed), k1 = high(seed);
  for (int round = 0; round < NUM_ROUNDS; ++round, k0 += KEY_STEP_0, k1 += KEY_STEP_1) {
    const uint64_t product0 = MULTIPLIER_0 * c0, product1 = MULTIPLIER_1 * c2;
    c0 = high(product1) ^ c1 ^ k0;
    c2 = high(product0) ^ c3 ^ k1;
    c1 = low(product1);
    c3 = low(product0);
  }
  return static_cast<float>(c0 >> 8) * 0x1p-24f;
}

}  // namespace vivace
