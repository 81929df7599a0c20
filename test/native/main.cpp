// What needs no Node and is best seen by sanitizers: every kernel table against generic to the bit, between
// pages without access, with many threads, from many threads; and the queue. Ends with a signal at the first
// difference. `once` tries each variation of a shape with one case instead of two, for sanitizers and
// emulators; `threads` only those with several threads, for ThreadSanitizer; `best` only the best table of
// this CPU beside generic at its plainest, where another run has tried the others. And which tables CPUs that
// are not here would get.

#include <atomic>
#include <cmath>
#include <cstring>
#include <future>
#include <thread>

#include "conversions.h"
#include "dispatch.h"
#include "norms.h"
#include "passes.h"
#include "plan.h"
#include "queue.h"
#include "storages.h"

namespace {

using batchnorm::Operation;
using batchnorm::Shape;

bool once = false;
bool threads_only = false;
bool best_only = false;
int passed = 0;

void check(bool condition, const char* what) {
  if (!condition) {
    std::printf("failed: %s\n", what);
    std::exit(1);
  }
  passed++;
}

// ---- The passes. ----

/// Those that are tried.
std::vector<const batchnorm::KernelTable*> tables() {
  if (best_only) return {batchnorm::kernel_tables().front()};
  return batchnorm::kernel_tables();
}

const Shape kShapes[] = {
    {1, 1, 1},      {1, 1, 2},    {2, 3, 1},    {5, 16, 1},    {33, 17, 1},  {700, 3, 1},   {600, 100, 1},
    {520, 130, 1},  {3, 5, 7},    {4, 33, 49},  {3, 2, 1000},  {2, 3, 4100}, {2, 2, 20001}, {400, 2, 64},
    {1, 1, 200000}, {64, 40, 49}, {9, 31, 16},  {70000, 3, 1}, {3, 40, 150}, {40, 11, 333}, {2, 12, 9000},
    {3, 20, 520},   {0, 3, 4},    {3, 9000, 1}, {2, 700, 2},   {7, 200, 2},  {40, 3, 5},    {33, 16, 4},
    {300, 9, 32},   {2000, 5, 3}, {9000, 24, 3}};

/// A channel that no cache holds: kLargeChannelBytes.
const Shape kLargeChannel = {2, 1, 600001};

/// What follows the normalization, and which gradients are asked for.
const Case kCases[] = {
    {{}, kGrid, 1, 1e-5, true, true, false, false, false, true, true},
    {{}, kSpecial, 2, 1e-5, true, false, true, false, false, true, true},
    {{}, kUniform, 3, 1e-5, false, true, true, true, true, true, true},
    {{}, kFarFromZero, 4, 1e-12, true, true, true, true, false, true, true},
    {{}, kHuge, 5, 1.0, true, true, false, true, false, true, false},
    {{}, kBits, 6, 1e-5, true, true, true, true, true, false, true},
    {{}, kSquares, 7, 1e-5, true, true, false, false, false, true, true},
};
constexpr size_t kCaseCount = sizeof(kCases) / sizeof(kCases[0]);

/// For stream_bytes: no result is as large.
constexpr size_t kNever = ~size_t{0};

/// Threads, misalignment, stores and blocks in combinations, each of which must change nothing.
struct Variation {
  size_t threads, place, cache_bytes, stream_bytes;
};
const Variation kVariations[] = {{1, kAtEnd, 1 << 19, kNever}, {1, 1, 1 << 19, 0},     {2, 5, 1, 0},
                                 {3, 3, 1 << 14, kNever},      {7, 0, 1 << 16, 0},     {1, 2, 1 << 14, 0},
                                 {1, 7, 1 << 18, 0},           {2, kAtEnd, 1 << 18, 0}};

/// Every variation, each with two of the cases and in place with one of them, or with either: over all shapes
/// each meets each.
template <typename S>
void test_shape(Shape shape, size_t number, batchnorm::Storage storage = batchnorm::kFloat32) {
  std::unique_ptr<passes::Inputs<S>> inputs[kCaseCount];
  std::unique_ptr<passes::Results<S>> expected[kCaseCount];
  for (size_t variation = 0; variation < std::size(kVariations); variation++) {
    if (threads_only && kVariations[variation].threads == 1) continue;
    for (size_t turn = 0; turn < 2; turn++) {
      if (once && turn != (number / 2 + variation) % 2) continue;
      const size_t index = (number + variation + turn * (1 + number % (kCaseCount - 1))) % kCaseCount;
      Case c = kCases[index];
      c.shape = shape;
      c.storage = storage;
      if (!expected[index]) {
        inputs[index] = std::make_unique<passes::Inputs<S>>(c);
        expected[index] = passes::expect<S>(c, *inputs[index]);
      }
      const auto [threads, place, cache_bytes, stream_bytes] = kVariations[variation];
      for (const auto* table : tables()) {
        const Manner m = {{table, threads, cache_bytes, stream_bytes}, place, turn == 1};
        passes::compare<S>(c, m, *passes::run<S>(c, *inputs[index], m), *expected[index]);
        passed++;
      }
    }
  }
}

// ---- What is decided before a pass begins. ----

struct PlanRow {
  const char* why;
  Shape shape;
  size_t threads, cache_bytes;
  batchnorm::Traffic traffic;
  const char* plan;
};
constexpr size_t kMegabyte = 1 << 20;
constexpr batchnorm::Traffic kTraining = {1, true, false, true};
constexpr batchnorm::Traffic kBackward = {2, true, false, true};
/// Of float32; from 20 MB on results are streamed.
const PlanRow kPlans[] = {
    {"a channel fits, beside another",
     {32, 256, 3136},
     1,
     kMegabyte,
     kTraining,
     "groups of 1, beside, streamed"},
    {"it fits alone", {32, 256, 3136}, 1, kMegabyte / 2, kTraining, "groups of 1, streamed"},
    {"it fits no cache, and is worth a try",
     {32, 64, 12544},
     1,
     kMegabyte,
     kTraining,
     "groups of 1, streamed"},
    {"several fit", {32, 512, 784}, 1, kMegabyte, kTraining, "groups of 7, beside, streamed"},
    {"on threads", {32, 512, 784}, 2, kMegabyte, kTraining, "groups of 7, beside, streamed, 2 threads"},
    {"a share for each thread", {8, 64, 3136}, 4, kMegabyte, kTraining, "groups of 4, cached, 4 threads"},
    {"rows of a few lines end where lines do",
     {32, 2048, 49},
     1,
     kMegabyte,
     kTraining,
     "groups of 160, cached"},
    {"twice as much to read", {32, 2048, 49}, 1, kMegabyte, kBackward, "groups of 80, cached"},
    {"kernels that cannot go beside",
     {32, 512, 784},
     1,
     kMegabyte,
     {1, true, false, false},
     "groups of 10, streamed"},
    {"nothing to write", {32, 512, 784}, 1, kMegabyte, {2, false, false, true}, "groups of 5, streamed"},
    {"in place", {32, 512, 784}, 1, kMegabyte, {1, true, true, true}, "groups of 10, cached"},
    {"rows shorter than a line", {3, 100000, 12}, 1, kMegabyte, kTraining, "groups of 7280, cached"},
    {"short planes from memory", {100000, 64, 4}, 1, kMegabyte, kTraining, "whole, blocks of 64, streamed"},
    {"many samples of a few values",
     {31250, 1, 16},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 16, backwards, cached"},
    {"a sample of many columns",
     {10000, 2, 100},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 4, backwards, cached"},
    {"columns are shared",
     {196, 1024, 1},
     2,
     kMegabyte,
     kBackward,
     "whole, blocks of 512, backwards, cached, 2 threads"},
    {"wide samples of short planes",
     {100, 500, 12},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 84, backwards, cached"},
    {"small", {2, 16, 33}, 4, kMegabyte, kTraining, "groups of 16, cached"},
    {"a channel no cache holds",
     {2, 1, 600001},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 1, backwards, cached"},
    {"too few channels for the threads",
     {32, 3, 50176},
     2,
     kMegabyte,
     kTraining,
     "whole, blocks of 3, backwards, cached, 2 threads"},
    {"channels-last", {1568, 256, 1}, 1, kMegabyte, kTraining, "whole, blocks of 256, backwards, cached"},
    {"narrow channels-last, folded",
     {100, 3, 1},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 288, backwards, cached"},
    {"channels-last from memory",
     {100352, 256, 1},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 256, streamed"},
    {"wide channels-last",
     {64, 9000, 1},
     1,
     kMegabyte,
     kTraining,
     "whole, blocks of 4096, backwards, cached"},
};

void test_plans() {
  for (const PlanRow& row : kPlans) {
    const batchnorm::Execution execution = {nullptr, row.threads, row.cache_bytes, size_t{20} << 20};
    const batchnorm::Partition<float> partition(row.shape);
    const std::string plan =
        batchnorm::describe(batchnorm::plan_of<float>(execution, partition, row.traffic));
    if (plan != row.plan) std::printf("%s: must be \"%s\", got \"%s\"\n", row.why, row.plan, plan.c_str());
    check(plan == row.plan, row.why);
  }
  const batchnorm::Execution execution = {nullptr, 2, kMegabyte, size_t{20} << 20};
  const auto of_write = [&](Shape shape, bool in_place) {
    return batchnorm::describe(
        batchnorm::plan_of_write<float>(execution, batchnorm::Tiling<float>(shape), in_place));
  };
  check(of_write({32, 256, 3136}, false) == "streamed, 2 threads", "a large result goes past the caches");
  check(of_write({32, 256, 3136}, true) == "cached, 2 threads", "but not in place");
  check(of_write({8, 100000, 12}, false) == "streamed, 2 threads", "so does one of short planes");
  check(of_write({4, 64, 4}, false) == "cached", "a small one is one thread's");
}

// ---- What becomes infinite. ----

template <typename T>
struct Training {
  std::vector<T> y;
  double mean;
  double variance;
};

/// Of one channel.
template <typename T>
Training<T> train(const batchnorm::KernelTable* table, std::vector<T> x) {
  Training<T> result{std::vector<T>(x.size()), 0, 0};
  batchnorm::forward_training<T>(
      {table, 1, 1 << 19, kNever},
      {{x.size(), 1, 1}, 1e-5, x.data(), result.y.data(), nullptr, nullptr, {}, nullptr}, &result.mean,
      &result.variance);
  return result;
}

bool is_close(double actual, double expected) {
  return std::fabs(actual - expected) <= 1e-6 * std::fabs(expected);
}

/// From which distance between shift and mean on float32 sums again, for no data shows it to two digits; and
/// sums that are 0.
void test_distance(const batchnorm::KernelTable* table) {
  const double values = 100, second = 4;
  const double near = std::sqrt(0.52 * second * values), far = std::sqrt(0.54 * second * values);
  check(table->f32.find_bad(1, false, values, &near, &second) == 1, "a shift that is near enough");
  check(table->f32.find_bad(1, false, values, &far, &second) == 0, "a shift that is too far");
  const double nothing = 0;
  check(table->f32.find_bad(1, false, values, &nothing, &nothing) == 1, "a constant");
  check(table->f32.find_bad(1, true, values, &nothing, &nothing) == 0, "squares that may have been lost");
  check(table->f64.find_bad(1, true, values, &nothing, &nothing) == 1, "a constant of doubles");
}

void test_infinities(const batchnorm::KernelTable* table) {
  const auto squares = train<double>(table, {-1.2e154, 1.2e154});
  check(squares.mean == 0 && is_close(squares.variance, 1.44e308), "a variance that a double holds is found");
  check(is_close(squares.y[0], -1) && is_close(squares.y[1], 1), "y of it is right");
  const auto largest = train<double>(table, {1.7e308, -1.7e308, 1.7e308});
  check(is_close(largest.mean, 1.7e308 / 3) && largest.variance > 1.7e308, "a larger one is infinity");
  check(largest.y[0] == 0 && largest.y[1] == 0, "y of it is the bias");
  check(std::isnan(train<double>(table, {1e300, -1e300, HUGE_VAL}).variance), "of an infinity it is NaN");
  const auto deviations = train<float>(table, {-3e38f, -3e38f, -3e38f, 3e38f});
  check(is_close(deviations.y[3], std::sqrt(3.0)), "y of deviations that float32 does not hold is right");

  const double mean[] = {1, 1, 1, 1, HUGE_VAL}, variance[] = {1, 1.5e308, 1, 1, 1};
  double running_mean[] = {0, 0, HUGE_VAL, 0, 0}, running_var[] = {3, 3, 3, std::nan(""), 3};
  double accepted[] = {1, 1, 1, 0, 1};
  const size_t rejected = batchnorm::update_running_stats(*table, 5, mean, variance, 2, 0.5, true,
                                                          running_mean, running_var, nullptr);
  check(rejected == 4 && running_mean[0] == 0.5 && running_var[0] == 2.5, "what is finite is averaged");
  check(running_mean[1] == 0 && running_var[1] == 3 && running_var[2] == 3 && running_mean[3] == 0 &&
            running_mean[4] == 0,
        "a channel that would not be finite stays as it was");
  const size_t of_accepted = batchnorm::update_running_stats(*table, 5, mean, variance, 2, 0.5, true,
                                                             running_mean, running_var, accepted);
  check(of_accepted == 3 && running_mean[0] == 0.75 && running_mean[3] == 1 && running_var[3] == 2,
        "the first that a channel accepts replaces what it has");
  check(accepted[0] == 2 && accepted[1] == 1 && accepted[3] == 1, "those that were accepted are counted");
}

// ---- Threads. ----

const Case kParallel = {{8, 64, 784}, kUniform, 7, 1e-5, true, true, true, true, true, true, true};

Manner manner_of(size_t threads) {
  return {{batchnorm::kernel_tables().front(), threads, 1 << 19, threads % 2 ? size_t{0} : kNever}, 0, false};
}

/// Callers on several threads share the pool, or run alone where another has it; each time with another
/// number of threads, as if it were set in between.
void test_callers() {
  const passes::Inputs<float> inputs(kParallel);
  const auto expected = passes::run<float>(kParallel, inputs, passes::plainest());
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < 4; caller++)
    callers.emplace_back([&, caller] {
      for (size_t i = 0; i < 5; i++) {
        const Manner m = manner_of(1 + (caller + i) % 5);
        passes::compare(kParallel, m, *passes::run<float>(kParallel, inputs, m), *expected);
      }
    });
  for (std::thread& caller : callers) caller.join();
  passed += 20;
}

// ---- The queue. ----

std::atomic<int> alive{0};

/// An operation that calls a function.
template <typename Body>
class Call : public Operation {
 public:
  Call(const void* owner, Body body) : Operation(owner), body_(std::move(body)) { alive++; }
  ~Call() override { alive--; }
  void run() noexcept override { body_(); }

 private:
  Body body_;
};

template <typename Body>
uint64_t enqueue(const void* owner, Body body) {
  return batchnorm::enqueue(std::make_unique<Call<Body>>(owner, std::move(body)));
}

/// Returns when all that was enqueued before has run.
void drain() {
  std::promise<void> done;
  enqueue(&done, [&] { done.set_value(); });
  done.get_future().wait();
  batchnorm::cancel_all(&done);
}

/// An operation that lets nothing pass until it is opened.
class Gate {
 public:
  explicit Gate(const void* owner) {
    enqueue(owner, [this] {
      begun_.set_value();
      opened_.get_future().wait();
    });
    begun_.get_future().wait();
  }
  void open() { opened_.set_value(); }

 private:
  std::promise<void> begun_, opened_;
};

void test_queue() {
  const char owners[2] = {};
  std::vector<size_t> order;
  {
    Gate gate(owners);
    std::vector<uint64_t> numbers;
    for (size_t i = 0; i < 1000; i++)
      numbers.push_back(enqueue(owners + i % 2, [&order, i] { order.push_back(i); }));
    for (size_t i = 0; i < 1000; i += 3) {
      check(batchnorm::cancel(numbers[i]), "what has not begun can be cancelled");
      check(!batchnorm::cancel(numbers[i]), "what was cancelled cannot be cancelled again");
    }
    check(alive == 1 + 666, "what was cancelled is destroyed at once");
    // While one of the first owner's is running: those of the second are taken back, and nobody waits.
    batchnorm::cancel_all(owners + 1);
    check(alive == 1 + 333, "cancel_all destroys what an owner has not begun");
    check(!batchnorm::cancel(numbers[1]), "what cancel_all took back cannot be cancelled again");
    gate.open();
    drain();
    check(alive == 0, "what has run is destroyed");
    for (uint64_t number : numbers) check(!batchnorm::cancel(number), "what has run cannot be cancelled");
  }
  std::vector<size_t> expected;
  for (size_t i = 0; i < 1000; i++)
    if (i % 3 != 0 && i % 2 == 0) expected.push_back(i);
  check(order == expected, "the others run in the order in which they came");

  // cancel_all waits for the one that has begun.
  std::atomic<bool> ended{false};
  std::promise<void> begun;
  enqueue(owners, [&] {
    begun.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ended = true;
  });
  begun.get_future().wait();
  batchnorm::cancel_all(owners);
  check(ended && alive == 0, "cancel_all waits for what has begun");
}

/// Several threads enqueue, cancel and leave, now and then with a pass to compute, beside one that computes
/// at once.
void test_queue_from_many() {
  const passes::Inputs<float> inputs(kParallel);
  const auto expected = passes::run<float>(kParallel, inputs, passes::plainest());
  const auto compute = [&](size_t threads) {
    const Manner m = manner_of(threads);
    passes::compare(kParallel, m, *passes::run<float>(kParallel, inputs, m), *expected);
  };
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < 3; caller++)
    callers.emplace_back([&, caller] {
      for (size_t round = 0; round < 200; round++) {
        // Written by the queue's thread, read here after cancel_all.
        std::vector<size_t> results(20, 0);
        const void* const owner = results.data();
        std::vector<uint64_t> numbers;
        size_t cancelled = 0;
        for (size_t i = 0; i < results.size(); i++) {
          numbers.push_back(enqueue(owner, [&, i] {
            if (i == 0 && round % 50 == caller) compute(1 + caller);
            results[i]++;
          }));
          if (i % 4 != caller) continue;
          // For the queue's thread to come in between: ThreadSanitizer sees no race that does not happen.
          std::this_thread::yield();
          cancelled += batchnorm::cancel(numbers[i / 2]);
        }
        if (round % 2) drain();
        batchnorm::cancel_all(owner);
        size_t run = 0;
        for (size_t result : results) run += result;
        if (round % 2 ? run + cancelled != results.size() : run + cancelled > results.size()) std::abort();
      }
    });
  for (size_t i = 0; i < 4; i++) compute(1 + i);
  for (std::thread& caller : callers) caller.join();
  check(alive == 0, "nothing is left in the queue");
}

// ---- Which tables CPUs get. ----

// Bits of CPUID(1).ECX, and of CPUID(7).EBX and ECX.
constexpr uint32_t kAvxLeaf1 = 1u << 27 | 1u << 28 | 1u << 29;  // OSXSAVE, AVX, F16C
constexpr uint32_t kAvx2 = 1u << 5;
constexpr uint32_t kAvx512 = kAvx2 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
constexpr uint32_t kVbmi = 1u << 1, kVbmi2 = 1u << 6, kVnni = 1u << 11, kBitalg = 1u << 12;
constexpr uint32_t kSince2019 = kVbmi | kVbmi2 | kVnni | kBitalg;
// XCR0.
constexpr uint32_t kYmm = 0x07, kZmm = 0xe7;

const struct {
  const char* name;
  batchnorm::X86Answers answers;
  const char* expected;
} kCpus[] = {
    {"Nehalem", {true, 0, 0, 0, 0}, ""},
    {"Ivy Bridge", {true, kAvxLeaf1, 0, 0, kYmm}, ""},
    {"Haswell", {true, kAvxLeaf1, kAvx2, 0, kYmm}, " avx2"},
    {"Skylake-X", {true, kAvxLeaf1, kAvx512, 0, kZmm}, " avx2 avx512"},
    {"Cascade Lake", {true, kAvxLeaf1, kAvx512, kVnni, kZmm}, " avx2 avx512"},
    // Cooper Lake has BF16 as well, which another leaf tells.
    {"Cooper Lake", {true, kAvxLeaf1, kAvx512, kVnni, kZmm}, " avx2 avx512"},
    {"Cannon Lake", {true, kAvxLeaf1, kAvx512, kVbmi, kZmm}, " avx2 avx512"},
    {"Ice Lake", {true, kAvxLeaf1, kAvx512, kSince2019, kZmm}, " avx512 avx2"},
    {"Sapphire Rapids", {true, kAvxLeaf1, kAvx512, kSince2019, 0x602e7}, " avx512 avx2"},
    {"Alder Lake", {true, kAvxLeaf1, kAvx2, 0, kYmm}, " avx2"},
    {"Cascade Lake, an OS that saves no ZMM", {true, kAvxLeaf1, kAvx512, kVnni, kYmm}, " avx2"},
    {"Ice Lake, an OS that saves no ZMM", {true, kAvxLeaf1, kAvx512, kSince2019, kYmm}, " avx2"},
    {"Zen 3", {false, kAvxLeaf1, kAvx2, 0, kYmm}, " avx2"},
    {"Zen 4", {false, kAvxLeaf1, kAvx512, kSince2019, kZmm}, " avx512 avx2"},
    {"Zen 5", {false, kAvxLeaf1, kAvx512, kSince2019, kZmm}, " avx512 avx2"},
    {"Zen 4 in a virtual machine that hides VBMI2", {false, kAvxLeaf1, kAvx512, 0, kZmm}, " avx512 avx2"},
};

void test_cpus() {
  for (const auto& cpu : kCpus) {
    const batchnorm::X86Isas isas = batchnorm::isas_of(cpu.answers);
    std::string actual = isas.avx512 && !isas.avx2_is_better ? " avx512" : "";
    if (isas.avx2) actual += " avx2";
    if (isas.avx512 && isas.avx2_is_better) actual += " avx512";
    check(actual == cpu.expected, cpu.name);
  }
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; i++) {
    if (std::strcmp(arguments[i], "once") == 0) {
      once = true;
    } else if (std::strcmp(arguments[i], "threads") == 0) {
      threads_only = true;
    } else if (std::strcmp(arguments[i], "best") == 0) {
      best_only = true;
    } else {
      std::fprintf(stderr, "an argument must be once, threads or best, got %s\n", arguments[i]);
      return 2;
    }
  }
  test_cpus();
  passed += conversions::test_all();
  passed += storages::test_all(best_only ? 41 : once ? 5 : 1);
  passed += norms::test_all(tables(), once || best_only, threads_only);
  size_t number = 0;
  for (const Shape shape : kShapes) {
    test_shape<float>(shape, number++);
    test_shape<double>(shape, number++);
    // Where all is emulated, each shape with one of them.
    const size_t turn = number / 4 % 2;
    if (!best_only || turn == 0) test_shape<batchnorm::Half>(shape, number, batchnorm::kBfloat16);
    if (!best_only || turn == 1) test_shape<batchnorm::Half>(shape, number + 1, batchnorm::kFloat16);
    number += 2;
  }
  for (size_t i = 0; i < 2; i++) {
    Case c = kCases[2 * i];
    c.shape = kLargeChannel;
    const passes::Inputs<float> inputs(c);
    const auto expected = passes::run<float>(c, inputs, passes::plainest());
    for (const auto* table : tables()) {
      const Manner m = {{table, 1 + i, 1 << 18, i == 0 ? kNever : 0}, 3, false};
      passes::compare<float>(c, m, *passes::run<float>(c, inputs, m), *expected);
      passed++;
    }
  }
  for (const auto* table : tables()) test_infinities(table);
  for (const auto* table : tables())
    check((std::strncmp(table->name, "avx", 3) == 0) == (table->half[0].moments[0] != nullptr),
          "AVX2 and AVX-512 have kernels of Half");
  for (const auto* table : tables()) test_distance(table);
  test_plans();
  test_callers();
  test_queue();
  test_queue_from_many();
  std::printf("ISAs:");
  for (const auto* table : batchnorm::kernel_tables()) std::printf(" %s", table->name);
  std::printf("\nTests: %d passed, 0 failed\n", passed);
}
