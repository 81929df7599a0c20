// The exports of the WebAssembly build; lib/backend/wasm.ts is the other side. Everything has been checked
// there, and all pointers are into the module's own memory.

#include <cstdint>
#include <cstdlib>

#include "batchnorm.h"
#include "presence.h"

#define EXPORT(name) extern "C" __attribute__((export_name(name)))

extern "C" const batchnorm::KernelTable batchnorm_kernels_wasm;

namespace {

using batchnorm::Activation;
using batchnorm::Compute;
using batchnorm::Execution;
using batchnorm::Half;
using batchnorm::Storage;

/// One thread, nothing past the caches, and a second-level cache as most CPUs have it.
template <Storage storage>
constexpr Execution kExecution = {&batchnorm_kernels_wasm, 1, size_t{1} << 19, ~size_t{0}, storage};

constexpr Activation activation_of(uint32_t relu) {
  return relu ? batchnorm::kRelu : batchnorm::kIdentity;
}

}  // namespace

/// What lives as long as a thread here lives as long as the module.
extern "C" int __cxa_thread_atexit(void (*)(void*), void*, void*) {
  return 0;
}

// The standard library's own would print a message first, and with it would come what a C library prints
// with.
void* operator new(size_t bytes) {
  void* const memory = std::malloc(bytes);
  if (!memory) __builtin_trap();
  return memory;
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}

/// Memory for a call, which begins at a line, and a line that native/simd/wasm.h may read beyond it; nullptr
/// where there is no more.
EXPORT("allocate") void* batchnorm_allocate(size_t bytes) {
  return std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

EXPORT("release") void batchnorm_release(void* memory) {
  std::free(memory);
}

EXPORT("updateRunningStats")
double batchnorm_update_running_stats(size_t channels, const double* mean, const double* variance,
                                      double count, double decay, uint32_t unbiased, double* running_mean,
                                      double* running_var, double* accepted) {
  return static_cast<double>(batchnorm::update_running_stats(batchnorm_kernels_wasm, channels, mean, variance,
                                                             count, decay, unbiased != 0, running_mean,
                                                             running_var, accepted));
}

/// The parameters that all passes back through a forward pass begin with, and that pass as they say it.
#define THROUGH_FORWARD(S)                                                                              \
  size_t outer, size_t channels, size_t inner, double eps, const S *dy, const S *x, const double *mean, \
      const double *variance, const Compute<S> *weight, const Compute<S> *bias, uint32_t relu, const S *residual,         \
      const unsigned char *mask, S *dresidual
#define PASS_THROUGH                                                                                     \
  {                                                                                                      \
    {outer, channels, inner}, eps, dy, x, mean, variance, weight, bias, {activation_of(relu), residual}, \
        mask                                                                                             \
  }

#define PRESENCE const double *weights, uint32_t missing, uint32_t impute, uint32_t zero
#define PRESENT \
  { weights, missing != 0, impute != 0, zero != 0 }

#define EXPORT_PASSES(S, suffix, storage) \
  EXPORT("forwardTraining" suffix) \
  void batchnorm_forward_training_##storage(size_t outer, size_t channels, size_t inner, double eps, const S* x, \
                                      S* y, const Compute<S>* weight, const Compute<S>* bias, double* mean, double* variance, \
                                      uint32_t relu, const S* residual, unsigned char* mask) { \
    batchnorm::forward_training<S>( \
        kExecution<batchnorm::storage>, \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, mean, \
        variance); \
  } \
  EXPORT("forwardInference" suffix) \
  void batchnorm_forward_inference_##storage(size_t outer, size_t channels, size_t inner, double eps, const S* x, \
                                       S* y, const Compute<S>* weight, const Compute<S>* bias, const double* mean, \
                                       const double* variance, uint32_t relu, const S* residual, \
                                       unsigned char* mask) { \
    batchnorm::forward_inference<S>( \
        kExecution<batchnorm::storage>, \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, mean, \
        variance); \
  } \
  EXPORT("moments" suffix) \
  void batchnorm_moments_##storage(size_t outer, size_t channels, size_t inner, const S* x, double* mean, \
                             double* variance) { \
    batchnorm::moments<S>(kExecution<batchnorm::storage>, {outer, channels, inner}, x, mean, variance); \
  } \
  EXPORT("backward" suffix) \
  void batchnorm_backward_##storage(THROUGH_FORWARD(S), uint32_t training, S* dx, Compute<S>* dweight, Compute<S>* dbias) { \
    batchnorm::backward<S>(kExecution<batchnorm::storage>, PASS_THROUGH, training != 0, {dx, dweight, dbias, dresidual}); \
  } \
  EXPORT("gradSums" suffix) \
  void batchnorm_grad_sums_##storage(THROUGH_FORWARD(S), double* dy_sum, double* dy_xc) { \
    batchnorm::grad_sums<S>(kExecution<batchnorm::storage>, PASS_THROUGH, dresidual, {dy_sum, dy_xc}); \
  } \
  EXPORT("gradInput" suffix) \
  void batchnorm_grad_input_##storage(THROUGH_FORWARD(S), double* dy_sum, double* dy_xc, double count, S* dx) { \
    batchnorm::grad_input<S>(kExecution<batchnorm::storage>, PASS_THROUGH, {dy_sum, dy_xc}, count, dx, dresidual); \
  } \
  EXPORT("gradParameters" suffix) \
  void batchnorm_grad_parameters_##storage(size_t channels, double eps, const double* mean, \
                                     const double* variance, double* dy_sum, double* dy_xc, Compute<S>* dweight, \
                                     Compute<S>* dbias) { \
    batchnorm::grad_parameters<Compute<S>>(kExecution<batchnorm::storage>, channels, eps, mean, variance, {dy_sum, dy_xc}, dweight, \
                                  dbias); \
  } \
  EXPORT("momentsOfPresent" suffix) \
  void batchnorm_moments_of_present_##storage(size_t outer, size_t channels, size_t inner, const S* x, \
                                        double* mean, double* variance, double* count, double* squares, \
                                        PRESENCE) { \
    batchnorm::moments_of_present<S>(kExecution<batchnorm::storage>, {outer, channels, inner}, x, PRESENT, \
                                     {count, squares, mean, variance}); \
  } \
  EXPORT("inferPresent" suffix) \
  void batchnorm_infer_present_##storage(size_t outer, size_t channels, size_t inner, double eps, const S* x, \
                                   S* y, const Compute<S>* weight, const Compute<S>* bias, const double* mean, \
                                   const double* variance, uint32_t relu, const S* residual, \
                                   unsigned char* mask, PRESENCE) { \
    batchnorm::infer_present<S>( \
        kExecution<batchnorm::storage>, \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, PRESENT, \
        mean, variance); \
  } \
  EXPORT("gradSumsOfPresent" suffix) \
  void batchnorm_grad_sums_of_present_##storage(THROUGH_FORWARD(S), double* dy_sum, double* dy_xc, double*, S*, \
                                          PRESENCE, double* bias_sum) { \
    batchnorm::grad_sums_of_present<S>(kExecution<batchnorm::storage>, PASS_THROUGH, PRESENT, dresidual, {dy_sum, dy_xc}, \
                                       bias_sum); \
  } \
  EXPORT("gradInputOfPresent" suffix) \
  void batchnorm_grad_input_of_present_##storage(THROUGH_FORWARD(S), double* dy_sum, double* dy_xc, \
                                           const double* count, S* dx, PRESENCE, double*) { \
    batchnorm::grad_input_of_present<S>(kExecution<batchnorm::storage>, PASS_THROUGH, PRESENT, {dy_sum, dy_xc}, count, dx, \
                                        dresidual); \
  } \
  EXPORT("gradWeights" suffix) \
  void batchnorm_grad_weights_##storage(THROUGH_FORWARD(S), double* dy_sum, double* dy_xc, const double* count, \
                                  double* dweights, const double* weights) { \
    static_cast<void>(dresidual); \
    batchnorm::grad_weights<S>(kExecution<batchnorm::storage>, PASS_THROUGH, {weights, false, false, false}, {dy_sum, dy_xc}, \
                               count, dweights); \
  } \
  EXPORT("findMissing" suffix) \
  double batchnorm_find_missing_##storage(size_t outer, size_t channels, size_t inner, const S* x, \
                                    const double* weights) { \
    return static_cast<double>(batchnorm::find_missing<S>(kExecution<batchnorm::storage>, {outer, channels, inner}, x, weights)); \
  } \
  EXPORT("frozenBytes" suffix) size_t batchnorm_frozen_bytes_##storage(size_t channels) { \
    return batchnorm::frozen_bytes<Compute<S>>(channels); \
  } \
  EXPORT("freeze" suffix) \
  void batchnorm_freeze_##storage(size_t channels, double eps, const Compute<S>* weight, const Compute<S>* bias, const double* mean, \
                            const double* variance, uint32_t relu, unsigned char* memory) { \
    batchnorm::freeze<Compute<S>>(kExecution<batchnorm::storage>, {channels, eps, mean, variance, weight, bias, activation_of(relu)}, \
                         memory); \
  } \
  EXPORT("runFrozen" suffix) \
  void batchnorm_run_frozen_##storage(size_t outer, size_t channels, size_t inner, const unsigned char* memory, \
                                const S* x, S* y, const S* residual) { \
    batchnorm::run_frozen<S>(kExecution<batchnorm::storage>, {outer, channels, inner}, memory, x, residual, y); \
  }

EXPORT_PASSES(float, "Float32", kFloat32)
EXPORT_PASSES(double, "Float64", kFloat64)
EXPORT_PASSES(Half, "Bfloat16", kBfloat16)
EXPORT_PASSES(Half, "Float16", kFloat16)
