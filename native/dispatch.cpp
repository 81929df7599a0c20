#include "dispatch.h"

#if BATCHNORM_X86
#include <cpuid.h>
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

#if BATCHNORM_X86
namespace {

struct Cpu {
  bool avx2 = false;
  bool avx512 = false;
};

/// Asks the CPU, and whether the operating system saves the wide registers. __builtin_cpu_supports is no
/// help: it says no to everything where the compiler's library has only a stub of it, as zig's does.
Cpu detect_cpu() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) return {};
  const bool f16c = ecx & bit_F16C;
  unsigned saved, upper;
  // volatile: not before it is known that the instruction exists.
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(upper) : "c"(0));
  constexpr unsigned kYmm = 0x06;
  constexpr unsigned kZmm = 0xe6;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return {};
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
#if defined(__APPLE__)
  // Before macOS 12.2 a signal could change the mask registers, which tails are written with; few Macs have
  // AVX-512.
  const bool avx512 = false;
#else
  const bool avx512 = (saved & kZmm) == kZmm && (ebx & kAvx512) == kAvx512;
#endif
  return {(saved & kYmm) == kYmm && (ebx & bit_AVX2) && f16c, avx512};
}

}  // namespace
#endif

const std::vector<const KernelTable*>& kernel_tables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> found;
#if BATCHNORM_X86
    const Cpu cpu = detect_cpu();
    if (cpu.avx512) found.push_back(&batchnorm_kernels_avx512);
    if (cpu.avx2) found.push_back(&batchnorm_kernels_avx2);
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
