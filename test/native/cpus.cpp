// Which kernel tables the dispatch takes on CPUs that are not here. For each, this program starts itself,
// goes through that process one instruction at a time, and puts the CPU's answers in the place of those of
// CPUID and XGETBV. What answers lead to is a matter of main.cpp too. Linux on x86-64.

#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "dispatch.h"

// The linker's: the code of this program itself. The C library, which chooses among functions of its own, is
// outside.
extern "C" const char __executable_start[], etext[];

namespace {

// Bits of CPUID.
constexpr uint32_t kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
constexpr uint32_t kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
constexpr uint32_t kAvx512 = kF | kDq | kBw | kVl;
constexpr uint32_t kVbmi2 = 1u << 6;
// Bits of XCR0, the registers that the operating system saves.
constexpr uint32_t kXmm = 0x03, kYmm = 0x07, kZmm = 0xe7;

/// Twelve letters, of CPUID(0): EBX, EDX, ECX.
using Maker = uint32_t[3];
constexpr Maker kIntel = {0x756e6547, 0x49656e69, 0x6c65746e};  // "GenuineIntel"
constexpr Maker kAmd = {0x68747541, 0x69746e65, 0x444d4163};    // "AuthenticAMD"

struct Cpu {
  const char* name;
  /// CPUID(1).ECX and CPUID(7).EBX and ECX, as far as they matter here.
  uint32_t leaf1_ecx, leaf7_ebx, leaf7_ecx;
  uint32_t xcr0;
  const char* expected;
  const Maker& maker = kIntel;
};

constexpr uint32_t kLeaf1 = kOsxsave | kAvx | kF16c;
const Cpu kCpus[] = {
    {"all of it", kLeaf1, kAvx2 | kAvx512, kVbmi2, kZmm, " avx512 avx2 generic"},
    {"AVX-512 that lowers the clock", kLeaf1, kAvx2 | kAvx512, 0, kZmm, " avx2 avx512 generic"},
    {"AVX-512 of AMD", kLeaf1, kAvx2 | kAvx512, 0, kZmm, " avx512 avx2 generic", kAmd},
    {"no AVX-512", kLeaf1, kAvx2, 0, kYmm, " avx2 generic"},
    {"no F16C", kOsxsave | kAvx, kAvx2, 0, kYmm, " generic"},
    {"no AVX2", kLeaf1, 0, 0, kYmm, " generic"},
    {"no AVX", 0, 0, 0, 0, " generic"},
    {"AVX-512 without F", kLeaf1, kAvx2 | (kAvx512 & ~kF), 0, kZmm, " avx2 generic"},
    {"AVX-512 without DQ", kLeaf1, kAvx2 | (kAvx512 & ~kDq), 0, kZmm, " avx2 generic"},
    {"AVX-512 without BW", kLeaf1, kAvx2 | (kAvx512 & ~kBw), 0, kZmm, " avx2 generic"},
    {"AVX-512 without VL", kLeaf1, kAvx2 | (kAvx512 & ~kVl), 0, kZmm, " avx2 generic"},
    {"all of it, an OS that saves no ZMM", kLeaf1, kAvx2 | kAvx512, kVbmi2, kYmm, " avx2 generic"},
    {"all of it, an OS that saves no YMM", kLeaf1, kAvx2 | kAvx512, kVbmi2, kXmm, " generic"},
    {"all of it, an OS without XSAVE", kAvx | kF16c, kAvx2 | kAvx512, kVbmi2, 0, " generic"},
};

void require(bool condition, const char* what) {
  if (condition) return;
  std::perror(what);
  std::exit(1);
}

/// Before any constructor runs: the compiler's own asks for the CPU.
void begin(int count, char**, char**) {
  if (count == 1) return;
  require(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0, "ptrace must be allowed");
  raise(SIGSTOP);
}
__attribute__((section(".preinit_array"), used)) void (*const kBegin)(int, char**, char**) = begin;

/// In the traced process: 0 where its tables are those.
int report(const std::string& expected) {
  std::string actual;
  for (const auto* table : batchnorm::kernel_tables()) actual += std::string(" ") + table->name;
  if (actual != expected) std::printf("must be%s, got%s\n", expected.c_str(), actual.c_str());
  return actual == expected ? 0 : 1;
}

/// Answers the instruction that begins with these bytes, if it is one that asks, as that CPU does.
bool answer(const Cpu& cpu, unsigned long bytes, user_regs_struct& registers) {
  if ((bytes & 0xffff) == 0xa20f) {  // CPUID
    const auto leaf = static_cast<uint32_t>(registers.rax), part = static_cast<uint32_t>(registers.rcx);
    const bool features = leaf == 7 && part == 0;
    constexpr uint32_t last_leaf = 7;
    // libgcc asks no further where it knows no maker.
    registers.rax = leaf == 0 ? last_leaf : 0;
    registers.rbx = leaf == 0 ? cpu.maker[0] : features ? cpu.leaf7_ebx : 0;
    registers.rcx = leaf == 0 ? cpu.maker[2] : leaf == 1 ? cpu.leaf1_ecx : features ? cpu.leaf7_ecx : 0;
    registers.rdx = leaf == 0 ? cpu.maker[1] : 0;
    registers.rip += 2;
    return true;
  }
  if ((bytes & 0xffffff) == 0xd0010f) {  // XGETBV
    registers.rax = cpu.xcr0;
    registers.rdx = 0;
    registers.rip += 3;
    return true;
  }
  return false;
}

/// Whether this program, on that CPU, finds the tables that it must.
bool run_on(const Cpu& cpu, const char* program) {
  const pid_t child = fork();
  require(child >= 0, "fork must succeed");
  if (child == 0) {
    execl(program, program, cpu.expected, nullptr);
    _exit(1);
  }
  int status;
  while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    user_regs_struct registers;
    require(ptrace(PTRACE_GETREGS, child, nullptr, &registers) == 0, "registers must be readable");
    const bool own = reinterpret_cast<uintptr_t>(__executable_start) <= registers.rip &&
                     registers.rip < reinterpret_cast<uintptr_t>(etext);
    if (own && answer(cpu, static_cast<unsigned long>(ptrace(PTRACE_PEEKTEXT, child, registers.rip, nullptr)),
                      registers))
      require(ptrace(PTRACE_SETREGS, child, nullptr, &registers) == 0, "registers must be writable");
    const int stop = WSTOPSIG(status);
    const long signal = stop == SIGTRAP || stop == SIGSTOP ? 0 : stop;
    require(ptrace(PTRACE_SINGLESTEP, child, nullptr, signal) == 0, "a step must be possible");
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) return report(arguments[1]);
  int failed = 0;
  for (const Cpu& cpu : kCpus) {
    const bool right = run_on(cpu, "/proc/self/exe");
    std::printf("%s: %s:%s\n", right ? "passed" : "failed", cpu.name, cpu.expected);
    failed += right ? 0 : 1;
  }
  const int tests = sizeof(kCpus) / sizeof(kCpus[0]);
  std::printf("Tests: %d passed, %d failed\n", tests - failed, failed);
  return failed == 0 ? 0 : 1;
}
