#include "dispatch.h"

#if defined(_MSC_VER) && !defined(__clang__)
#error "compile with clang-cl: the CPU test below is a GNU builtin"
#endif

extern "C" {
extern const batchnorm::KernelTable batchnorm_kernels_generic;
#if BATCHNORM_X86
extern const batchnorm::KernelTable batchnorm_kernels_avx2, batchnorm_kernels_avx512;
#elif BATCHNORM_ARM64
extern const batchnorm::KernelTable batchnorm_kernels_neon;
#endif
}

namespace batchnorm {

const std::vector<const KernelTable*>& kernel_tables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found;
#if BATCHNORM_X86
    // These builtins ask the operating system too whether it saves the wide registers.
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      found.push_back(&batchnorm_kernels_avx512);
    if (__builtin_cpu_supports("avx2")) found.push_back(&batchnorm_kernels_avx2);
#elif BATCHNORM_ARM64
    found.push_back(&batchnorm_kernels_neon);
#endif
    found.push_back(&batchnorm_kernels_generic);
    return found;
  }();
  return tables;
}

const KernelTable* find_kernel_table(const std::string& name) {
  for (const KernelTable* table : kernel_tables())
    if (name == table->name) return table;
  return nullptr;
}

}  // namespace batchnorm
