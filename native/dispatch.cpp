#include "dispatch.h"

#if BATCHNORM_X86
#include <cpuid.h>
#endif

extern "C" {
extern const batchnorm::KernelTable batchnorm_kernels_generic;
#if BATCHNORM_X86
extern const batchnorm::KernelTable batchnorm_kernels_avx2;
#elif BATCHNORM_ARM64
extern const batchnorm::KernelTable batchnorm_kernels_neon;
#endif
#if BATCHNORM_AVX512
extern const batchnorm::KernelTable batchnorm_kernels_avx512;
#endif
}

namespace batchnorm {

X86Isas isas_of(const X86Answers& cpu) {
  constexpr uint32_t kF16c = 1u << 29;
  constexpr uint32_t kAvx2 = 1u << 5;
  constexpr uint32_t kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr uint32_t kAvx512 = kF | kDq | kBw | kVl;
  constexpr uint32_t kVbmi2 = 1u << 6;
  constexpr uint32_t kYmm = 0x06, kZmm = 0xe6;
  const bool avx2 = (cpu.xcr0 & kYmm) == kYmm && (cpu.leaf7_ebx & kAvx2) && (cpu.leaf1_ecx & kF16c);
  const bool avx512 = (cpu.xcr0 & kZmm) == kZmm && (cpu.leaf7_ebx & kAvx512) == kAvx512;
  // From Skylake-X to Cooper Lake multiplications and additions of 64 bytes lower the clock of a core for 0.7
  // ms, also for what runs after them, and of what lies in caches they make nothing faster.
  const bool lowers_clock = cpu.is_intel && !(cpu.leaf7_ecx & kVbmi2);
  return {avx2, avx512, avx2 && avx512 && lowers_clock};
}

namespace {

#if BATCHNORM_X86
/// Asks the CPU, and whether the operating system saves the wide registers. __builtin_cpu_supports is no
/// help: it says no to everything where the compiler's library has only a stub of it, as zig's does.
X86Answers ask_cpu() {
  X86Answers cpu = {};
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return {};
  cpu.is_intel = ebx == signature_INTEL_ebx && ecx == signature_INTEL_ecx && edx == signature_INTEL_edx;
  if (!__get_cpuid(1, &eax, &ebx, &cpu.leaf1_ecx, &edx) || !(cpu.leaf1_ecx & bit_OSXSAVE)) return {};
  // volatile: not before it is known that the instruction exists.
  __asm__ volatile("xgetbv" : "=a"(cpu.xcr0), "=d"(edx) : "c"(0));
  if (!__get_cpuid_count(7, 0, &eax, &cpu.leaf7_ebx, &cpu.leaf7_ecx, &edx)) return {};
  return cpu;
}
#endif

struct Choice {
  std::vector<const KernelTable*> tables;
  const char* reason = "the widest that can be used here";
};

Choice choose() {
  Choice choice;
  std::vector<const KernelTable*>& tables = choice.tables;
#if BATCHNORM_X86
  const X86Isas isas = isas_of(ask_cpu());
  if (isas.avx2) tables.push_back(&batchnorm_kernels_avx2);
#if BATCHNORM_AVX512
  if (isas.avx512)
    tables.insert(isas.avx2_is_better ? tables.end() : tables.begin(), &batchnorm_kernels_avx512);
  if (isas.avx2_is_better) choice.reason = "AVX-512 lowers the clock of this CPU";
#endif
#elif BATCHNORM_ARM64
  tables.push_back(&batchnorm_kernels_neon);
#endif
  tables.push_back(&batchnorm_kernels_generic);
  return choice;
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

const std::vector<const KernelTable*>& kernel_tables() {
  return choice().tables;
}

const char* reason_of_best() {
  return choice().reason;
}

const KernelTable* find_kernel_table(const std::string& name) {
  for (const KernelTable* table : kernel_tables())
    if (name == table->name) return table;
  return nullptr;
}

}  // namespace batchnorm
