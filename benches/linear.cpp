// Rates of the matrix product kernels: linear_rates [threads] [isa] [layout ...]
//
// Decode: M = 1 over 450 MB or more of weights in huge pages, in turn with a plain read of the same buffer by the same
// threads; medians of the pairs and their ratio. Then GOP/s at M rows for one matrix [N, K]. Time is the processor time
// of the busiest thread, so that other processes on the same cores disturb less.
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "arena.h"
#include "dispatch.h"
#include "linear/geometry.h"
#include "thread_pool.h"

namespace vivace {
namespace {

struct LayoutName {
  const char* name;
  Layout layout;
  int stored_inputs;
  int stored_bytes;
  int header_bytes = 0;  // of a row
};

constexpr LayoutName LAYOUT_NAMES[] = {
    {"f32", Layout::F32, 1, 4},       {"f16", Layout::F16, 1, 2},       {"bf16", Layout::BF16, 1, 2},
    {"q8_0", Layout::Q8_0, 32, 34},   {"q4_0", Layout::Q4_0, 32, 18},   {"q4_1", Layout::Q4_1, 32, 20},
    {"q5_0", Layout::Q5_0, 32, 22},   {"q5_1", Layout::Q5_1, 32, 24},   {"q4_k", Layout::Q4_K, 256, 144},
    {"q5_k", Layout::Q5_K, 256, 176}, {"q6_k", Layout::Q6_K, 256, 210},
    {"int4_g32", Layout::INT4_G32, 32, 20},            {"int4_g64", Layout::INT4_G64, 64, 36},
    {"int4_g128", Layout::INT4_G128, 128, 68},         {"int8_channel", Layout::INT8_CHANNEL, 1, 1, 4},
    {"int8_outlier", Layout::INT8_OUTLIER, 1, 1, 4},
};

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
uint64_t plain_read(const uint8_t* data, size_t num_bytes) {
  typedef uint64_t Lanes __attribute__((vector_size(32), may_alias));
  Lanes sums[4] = {};
  const Lanes* from = reinterpret_cast<const Lanes*>(data);
  for (size_t i = 0; i + 4 <= num_bytes / 32; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += from[i + static_cast<size_t>(j)];
  }
  const Lanes total = sums[0] + sums[1] + sums[2] + sums[3];
  return total[0] + total[1] + total[2] + total[3];
}

// 12 independent VPDPBUSD a round: the int8 ceiling that the rates stand beside.
#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void int8_peak_loop(int rounds) {
  __m512i sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi32(rounds), b = _mm512_set1_epi32(rounds + 1);
  for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
  }
  __m512i total = sums[0];
  for (int i = 1; i < 12; ++i) total = _mm512_xor_si512(total, sums[i]);
  volatile int sink = _mm512_reduce_add_epi32(total);
  (void)sink;
}
#else
void int8_peak_loop(int) {}
#endif

class Bench {
 public:
  Bench(int num_threads, const KernelTable& kernels) : pool_(num_threads), kernels_(kernels.linear) {}

  void decode(const LayoutName& layout, int64_t columns) {
    const int64_t block = block_bytes(layout.layout, columns);
    const int64_t blocks = (int64_t{450} << 20) / block + 1;
    Mapping memory(static_cast<size_t>(blocks * block));
    const PackedMatrix matrix = random_matrix(layout, blocks * OUTPUT_BLOCK, columns, memory);
    std::vector<double> ratios, kernel_rates, read_rates;
    for (int pair = 0; pair < 9; ++pair) {
      const double kernel = static_cast<double>(matrix.num_bytes) / product_seconds(matrix, 1) * 1e-9;
      const double read = static_cast<double>(matrix.num_bytes) / read_seconds(matrix) * 1e-9;
      kernel_rates.push_back(kernel);
      read_rates.push_back(read);
      ratios.push_back(kernel / read);
    }
    std::printf("%-5s decode K=%ld  %5.1f GB/s, read %5.1f GB/s, ratio %.2f\n", layout.name, static_cast<long>(columns),
                median(kernel_rates), median(read_rates), median(ratios));
  }

  void rate(const LayoutName& layout, int64_t rows, int64_t columns, int64_t num_rows) {
    Mapping memory(packed_bytes(layout.layout, rows, columns));
    const PackedMatrix matrix = random_matrix(layout, rows, columns, memory);
    std::vector<double> rates, ratios;
    const double operations = 2.0 * static_cast<double>(rows * columns * num_rows);
    for (int round = 0; round < (num_rows > 64 ? 5 : 15); ++round) {
      rates.push_back(operations / product_seconds(matrix, num_rows) * 1e-9);
      ratios.push_back(rates.back() / int8_peak());
    }
    std::printf("%-5s N=%ld K=%ld M=%-3ld %6.1f GOP/s (best %.1f), %.2f of the int8 peak\n", layout.name, static_cast<long>(rows),
                static_cast<long>(columns), static_cast<long>(num_rows), median(rates),
                *std::max_element(rates.begin(), rates.end()), median(ratios));
  }

 private:
  // Packs 16 rows of random blocks and repeats them.
  PackedMatrix random_matrix(const LayoutName& layout, int64_t rows, int64_t columns, const Mapping& memory) {
    std::mt19937 random(1);
    const int64_t stride = layout.header_bytes + columns / layout.stored_inputs * layout.stored_bytes;
    std::vector<uint8_t> stored(static_cast<size_t>(16 * stride));
    for (uint8_t& byte : stored) byte = random() & 0x3f;  // no exponent that makes NaN
    pack(layout.layout, stored.data(), stride, 16, columns, memory.data(), 0, 1);
    const int64_t block = block_bytes(layout.layout, columns);
    for (int64_t i = 1; i < output_blocks(rows); ++i) {
      std::memcpy(memory.data() + i * block, memory.data(), static_cast<size_t>(block));
    }
    return {layout.layout, rows, columns, memory.data(), packed_bytes(layout.layout, rows, columns)};
  }

  double product_seconds(const PackedMatrix& matrix, int64_t num_rows) {
    std::vector<float> x(static_cast<size_t>(num_rows * matrix.columns), 0.5f);
    const int64_t stride = matrix.rows + 16;  // as the arena places rows: a multiple of 4 KiB would share cache sets
    Mapping y(static_cast<size_t>(num_rows * stride) * sizeof(float));
    std::memset(y.data(), 0, y.num_bytes());
    Mapping scratch(kernels_.scratch_bytes(matrix, num_rows) + 64);
    std::memset(scratch.data(), 0, scratch.num_bytes());
    const int64_t blocks = output_blocks(matrix.rows);
    const double prepared = run_shares([&](int thread, int64_t threads) {
      kernels_.prepare(matrix, x.data(), matrix.columns, num_rows, scratch.data(), num_rows * thread / threads,
                       num_rows * (thread + 1) / threads);
    });
    return prepared + run_shares([&](int thread, int64_t threads) {
      kernels_.run(matrix, x.data(), matrix.columns, scratch.data(), num_rows, reinterpret_cast<float*>(y.data()),
                   stride, nullptr, blocks * thread / threads, blocks * (thread + 1) / threads);
    });
  }

  double read_seconds(const PackedMatrix& matrix) {
    return run_shares([&](int thread, int64_t threads) {
      const int64_t pages = static_cast<int64_t>(matrix.num_bytes / 4096);
      const int64_t begin = pages * thread / threads, end = pages * (thread + 1) / threads;
      volatile uint64_t sink = plain_read(matrix.data + begin * 4096, static_cast<size_t>(end - begin) * 4096);
      (void)sink;
    });
  }

  double int8_peak() {
    if (!__builtin_cpu_supports("avx512vnni")) return 1.0;
    constexpr int ROUNDS = 1000000;
    const double spent = run_shares([](int, int64_t) { int8_peak_loop(ROUNDS); });
    return 12.0 * 128 * ROUNDS * pool_.size() / spent * 1e-9;
  }

  double run_shares(auto&& share) {
    std::vector<double> spent(static_cast<size_t>(pool_.size()));
    pool_.run([&](int thread) {
      const double start = thread_seconds();
      share(thread, pool_.size());
      spent[static_cast<size_t>(thread)] = thread_seconds() - start;
    });
    return *std::max_element(spent.begin(), spent.end());
  }

  ThreadPool pool_;
  LinearKernels kernels_;
};

int run(int argc, char** argv) {
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const KernelTable* kernels = find_kernels(argc > 2 ? argv[2] : "");
  if (!kernels) return std::fprintf(stderr, "this machine lacks %s\n", argv[2]), 1;
  std::printf("%s, %d threads\n", kernels->name, num_threads);
  Bench bench(num_threads, *kernels);
  for (const LayoutName& layout : LAYOUT_NAMES) {
    const bool wanted = argc <= 3 || std::any_of(argv + 3, argv + argc, [&](const std::string& name) {
      return name == layout.name;
    });
    if (!wanted) continue;
    bench.decode(layout, 2048);
    // A batch of decodes streams its weights from memory too: 131072 outputs are 150 MB of Q4_0.
    for (const int64_t num_rows : {2, 4, 8, 12, 16, 32}) bench.rate(layout, 131072, 2048, num_rows);
    bench.rate(layout, 8192, 2048, 512);
    bench.rate(layout, 2048, 8192, 512);
  }
  return 0;
}

}  // namespace
}  // namespace vivace

int main(int argc, char** argv) { return vivace::run(argc, argv); }
