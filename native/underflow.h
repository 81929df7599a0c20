// What the CPU remembers of results that were too small: whether this thread has rounded one below the
// normal numbers. By assembly, which stays where it stands: compilers take two reads of the flags for one.
#pragma once

#include <cstdint>

namespace batchnorm {

/// Whether a result has lost digits to underflow since forget_underflow(), for any reason; true where nobody
/// knows, as in WebAssembly.
inline bool may_have_underflowed() {
#if defined(__x86_64__) && defined(__GNUC__)
  uint32_t status;
  __asm__ volatile("stmxcsr %0" : "=m"(status) : : "memory");
  return (status & 0x10) != 0;
#elif defined(__aarch64__) && defined(__GNUC__)
  uint64_t status;
  __asm__ volatile("mrs %0, fpsr" : "=r"(status) : : "memory");
  return (status & 8) != 0;
#else
  return true;
#endif
}

inline void forget_underflow() {
#if defined(__x86_64__) && defined(__GNUC__)
  uint32_t status;
  __asm__ volatile("stmxcsr %0" : "=m"(status) : : "memory");
  status &= ~uint32_t{0x10};
  __asm__ volatile("ldmxcsr %0" : : "m"(status) : "memory");
#elif defined(__aarch64__) && defined(__GNUC__)
  uint64_t status;
  __asm__ volatile("mrs %0, fpsr" : "=r"(status) : : "memory");
  __asm__ volatile("msr fpsr, %0" : : "r"(status & ~uint64_t{8}) : "memory");
#endif
}

}  // namespace batchnorm
