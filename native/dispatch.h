// Which kernel tables this CPU can run, and which of them is the best.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace batchnorm {

/// What an x86 CPU answers to CPUID and XGETBV, as far as it matters here. Where there is no XGETBV, nothing.
struct X86Answers {
  bool is_intel;
  uint32_t leaf1_ecx;
  uint32_t leaf7_ebx;
  uint32_t leaf7_ecx;
  uint32_t xcr0;  ///< the registers that the operating system saves
};

/// What it can run.
struct X86Isas {
  bool avx2;
  bool avx512;
  bool avx2_is_better;  ///< of both
};

X86Isas isas_of(const X86Answers& cpu);

/// The tables this CPU and its operating system can run, best first; `generic` is always the last.
const std::vector<const KernelTable*>& kernel_tables();

/// Why the first of them is, in words.
const char* reason_of_best();

/// The table of that name, or nullptr if this CPU cannot run it.
const KernelTable* find_kernel_table(const std::string& name);

}  // namespace batchnorm
