#include "dispatch.h"

namespace vivace {

namespace generic { extern const KernelTable KERNELS; }
#if defined(__x86_64__)
namespace avx2 { extern const KernelTable KERNELS; }
namespace avx512 { extern const KernelTable KERNELS; }
namespace avx512_bf16 { extern const KernelTable KERNELS; }
#endif

namespace {

std::vector<const KernelTable*> detect() {
  std::vector<const KernelTable*> tables{&generic::KERNELS};
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The builtin also asks XGETBV whether the system saves the registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) {
    return tables;
  }
  tables.push_back(&avx2::KERNELS);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vnni")) {
    return tables;
  }
  tables.push_back(&avx512::KERNELS);
  if (__builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512_bf16::KERNELS);
#endif
  return tables;
}

}  // namespace

const std::vector<const KernelTable*>& supported_kernels() {
  static const std::vector<const KernelTable*> tables = detect();
  return tables;
}

const KernelTable* find_kernels(const std::string& name) {
  if (name.empty()) return supported_kernels().back();
  for (const KernelTable* table : supported_kernels()) {
    if (name == table->name) return table;
  }
  return nullptr;
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> features;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define VIVACE_FEATURE(name, label) \
  if (__builtin_cpu_supports(name)) features.emplace_back(label)
  VIVACE_FEATURE("avx2", "avx2");
  VIVACE_FEATURE("fma", "fma");
  VIVACE_FEATURE("f16c", "f16c");
  VIVACE_FEATURE("avx512f", "avx512f");
  VIVACE_FEATURE("avx512bw", "avx512bw");
  VIVACE_FEATURE("avx512dq", "avx512dq");
  VIVACE_FEATURE("avx512vl", "avx512vl");
  VIVACE_FEATURE("avx512vbmi", "avx512vbmi");
  VIVACE_FEATURE("avx512vnni", "avx512_vnni");
  VIVACE_FEATURE("avx512bf16", "avx512_bf16");
#undef VIVACE_FEATURE
#endif
  return features;
}

}  // namespace vivace
