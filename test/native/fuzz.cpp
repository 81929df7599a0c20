// libFuzzer on the C++ interface: a case and the manners of computing it from bytes; every instruction set
// against generic. Anything it finds becomes a case of main.cpp.

#include <fuzzer/FuzzedDataProvider.h>

#include "norms.h"
#include "passes.h"

namespace {

/// Values of a tensor. Mostly few: what is large is slow, and no path needs it but those of several threads
/// and blocks.
size_t read_budget(FuzzedDataProvider& bytes) {
  return size_t{1} << (bytes.ConsumeProbability<float>() < 0.95f ? bytes.ConsumeIntegralInRange<int>(0, 12)
                                                                 : bytes.ConsumeIntegralInRange<int>(13, 17));
}

double read_eps(FuzzedDataProvider& bytes) {
  return bytes.PickValueInArray({1e-5, 1e-12, 1e-300, 1.0, 1e300});
}

Case read_case(FuzzedDataProvider& bytes) {
  Case c;
  const size_t budget = read_budget(bytes);
  const auto up_to = [&](size_t most) { return bytes.ConsumeIntegralInRange<size_t>(1, most); };
  c.shape.channels = up_to(budget < 5000 ? budget : 5000);
  const size_t count = budget / c.shape.channels;
  c.shape.inner = bytes.ConsumeBool() ? 1 : up_to(count);
  // None at all, at times.
  c.shape.outer = bytes.ConsumeIntegralInRange<size_t>(0, count / c.shape.inner);
  c.filling = static_cast<Filling>(bytes.ConsumeIntegralInRange<int>(0, kFillings - 1));
  c.seed = bytes.ConsumeIntegral<uint32_t>();
  c.eps = read_eps(bytes);
  c.weight = bytes.ConsumeBool();
  c.bias = bytes.ConsumeBool();
  c.relu = bytes.ConsumeBool();
  c.residual = bytes.ConsumeBool();
  c.mask = bytes.ConsumeBool();
  c.input_gradient = bytes.ConsumeBool();
  c.parameter_gradients = bytes.ConsumeBool();
  return c;
}

norms::Case read_norm(FuzzedDataProvider& bytes) {
  norms::Case c;
  size_t left = read_budget(bytes);
  /// A dimension of what is left; often 1.
  const auto take = [&] {
    const size_t size = bytes.ConsumeBool() ? 1 : bytes.ConsumeIntegralInRange<size_t>(1, left);
    left /= size;
    return size;
  };
  c.shape.channels = take();
  c.shape.inner = take();
  c.shape.groups = take();
  c.shape.outer = take();
  // None at all, at times.
  c.shape.samples = bytes.ConsumeIntegralInRange<size_t>(0, left);
  c.filling = static_cast<Filling>(bytes.ConsumeIntegralInRange<int>(0, kFillings - 1));
  c.seed = bytes.ConsumeIntegral<uint32_t>();
  c.eps = read_eps(bytes);
  for (bool* choice : {&c.centred, &c.weight, &c.bias, &c.relu, &c.residual, &c.mask, &c.input_gradient,
                       &c.weight_gradient, &c.bias_gradient})
    *choice = bytes.ConsumeBool();
  return c;
}

Manner read_manner(FuzzedDataProvider& bytes) {
  Manner m = passes::plainest();
  m.execution.threads = bytes.ConsumeIntegralInRange<size_t>(1, 4);
  m.execution.cache_bytes = size_t{1} << bytes.ConsumeIntegralInRange<int>(0, 21);
  m.execution.stream_bytes =
      bytes.ConsumeBool() ? bytes.ConsumeIntegralInRange<size_t>(0, 1 << 16) : ~size_t{0};
  m.place = bytes.ConsumeBool() ? kAtEnd : bytes.ConsumeIntegralInRange<size_t>(0, 17);
  m.in_place = bytes.ConsumeBool();
  return m;
}

template <typename S>
void test(const Case& c, Manner m) {
  const passes::Inputs<S> inputs(c);
  const auto expected = passes::expect<S>(c, inputs);
  for (const auto* table : batchnorm::kernel_tables()) {
    m.execution.kernels = table;
    passes::compare<S>(c, m, *passes::run<S>(c, inputs, m), *expected);
  }
}

template <typename S>
void test(const norms::Case& c, Manner m) {
  const norms::Inputs<S> inputs(c);
  const auto expected = norms::expect<S>(c, inputs);
  for (const auto* table : batchnorm::kernel_tables()) {
    m.execution.kernels = table;
    norms::compare<S>(c, m, *norms::run<S>(c, inputs, m), *expected);
  }
}

template <typename AnyCase>
void test_any(AnyCase c, const Manner& m, bool is_double, bool is_half) {
  c.storage = is_double ? batchnorm::kFloat16 : batchnorm::kBfloat16;
  if (is_half)
    test<batchnorm::Half>(c, m);
  else if (is_double)
    test<double>(c, m);
  else
    test<float>(c, m);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider bytes(data, size);
  const bool is_double = bytes.ConsumeBool();
  const bool is_half = bytes.ConsumeBool();
  const bool is_norm = bytes.ConsumeIntegralInRange<int>(0, 2) == 0;
  if (is_norm) {
    const norms::Case c = read_norm(bytes);
    test_any(c, read_manner(bytes), is_double, is_half);
  } else {
    const Case c = read_case(bytes);
    test_any(c, read_manner(bytes), is_double, is_half);
  }
  return 0;
}
