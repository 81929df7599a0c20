// The exports of the WebAssembly build; lib/backend/wasm.ts is the other side. Everything has been checked
// there, and all pointers are into the module's own memory.

#include <cstdint>
#include <cstdlib>

#include "batchnorm.h"
#include "presence.h"
#include "rows.h"
#include "stored.h"

#define EXPORT(name) extern "C" __attribute__((export_name(name)))

extern "C" const batchnorm::KernelTable batchnorm_kernels_wasm;

namespace {

using batchnorm::Activation;
using batchnorm::Execution;

/// One thread, nothing past the caches, and a second-level cache as most CPUs have it.
constexpr Execution kExecution = {&batchnorm_kernels_wasm, 1, size_t{1} << 19, ~size_t{0}};

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
#define THROUGH_FORWARD(T)                                                                              \
  size_t outer, size_t channels, size_t inner, double eps, const T *dy, const T *x, const double *mean, \
      const double *variance, const T *weight, const T *bias, uint32_t relu, const T *residual,         \
      const unsigned char *mask, T *dresidual
#define PASS_THROUGH                                                                                     \
  {                                                                                                      \
    {outer, channels, inner}, eps, dy, x, mean, variance, weight, bias, {activation_of(relu), residual}, \
        mask                                                                                             \
  }

#define PRESENCE const double *weights, uint32_t missing, uint32_t impute, uint32_t zero
#define PRESENT \
  { weights, missing != 0, impute != 0, zero != 0 }

#define ROWS \
  size_t samples, size_t outer, size_t groups, size_t channels, size_t inner, double eps, uint32_t centred
#define ROW_SHAPE \
  { samples, outer, groups, channels, inner }

#define EXPORT_PASSES(T, suffix)                                                                             \
  EXPORT("forwardTraining" suffix)                                                                           \
  void batchnorm_forward_training_##T(size_t outer, size_t channels, size_t inner, double eps, const T* x,   \
                                      T* y, const T* weight, const T* bias, double* mean, double* variance,  \
                                      uint32_t relu, const T* residual, unsigned char* mask) {               \
    batchnorm::forward_training<T>(                                                                          \
        kExecution,                                                                                          \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, mean,    \
        variance);                                                                                           \
  }                                                                                                          \
  EXPORT("forwardInference" suffix)                                                                          \
  void batchnorm_forward_inference_##T(size_t outer, size_t channels, size_t inner, double eps, const T* x,  \
                                       T* y, const T* weight, const T* bias, const double* mean,             \
                                       const double* variance, uint32_t relu, const T* residual,             \
                                       unsigned char* mask) {                                                \
    batchnorm::forward_inference<T>(                                                                         \
        kExecution,                                                                                          \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, mean,    \
        variance);                                                                                           \
  }                                                                                                          \
  EXPORT("moments" suffix)                                                                                   \
  void batchnorm_moments_##T(size_t outer, size_t channels, size_t inner, const T* x, double* mean,          \
                             double* variance) {                                                             \
    batchnorm::moments<T>(kExecution, {outer, channels, inner}, x, mean, variance);                          \
  }                                                                                                          \
  EXPORT("backward" suffix)                                                                                  \
  void batchnorm_backward_##T(THROUGH_FORWARD(T), uint32_t training, T* dx, T* dweight, T* dbias) {          \
    batchnorm::backward<T>(kExecution, PASS_THROUGH, training != 0, {dx, dweight, dbias, dresidual});        \
  }                                                                                                          \
  EXPORT("gradSums" suffix)                                                                                  \
  void batchnorm_grad_sums_##T(THROUGH_FORWARD(T), double* dy_sum, double* dy_xc) {                          \
    batchnorm::grad_sums<T>(kExecution, PASS_THROUGH, dresidual, {dy_sum, dy_xc});                           \
  }                                                                                                          \
  EXPORT("gradInput" suffix)                                                                                 \
  void batchnorm_grad_input_##T(THROUGH_FORWARD(T), double* dy_sum, double* dy_xc, double count, T* dx) {    \
    batchnorm::grad_input<T>(kExecution, PASS_THROUGH, {dy_sum, dy_xc}, count, dx, dresidual);               \
  }                                                                                                          \
  EXPORT("gradParameters" suffix)                                                                            \
  void batchnorm_grad_parameters_##T(size_t channels, double eps, const double* mean,                        \
                                     const double* variance, double* dy_sum, double* dy_xc, T* dweight,      \
                                     T* dbias) {                                                             \
    batchnorm::grad_parameters<T>(kExecution, channels, eps, mean, variance, {dy_sum, dy_xc}, dweight,       \
                                  dbias);                                                                    \
  }                                                                                                          \
  EXPORT("momentsOfPresent" suffix)                                                                          \
  void batchnorm_moments_of_present_##T(size_t outer, size_t channels, size_t inner, const T* x,             \
                                        double* mean, double* variance, double* count, double* squares,      \
                                        PRESENCE) {                                                          \
    batchnorm::moments_of_present<T>(kExecution, {outer, channels, inner}, x, PRESENT,                       \
                                     {count, squares, mean, variance});                                      \
  }                                                                                                          \
  EXPORT("inferPresent" suffix)                                                                              \
  void batchnorm_infer_present_##T(size_t outer, size_t channels, size_t inner, double eps, const T* x,      \
                                   T* y, const T* weight, const T* bias, const double* mean,                 \
                                   const double* variance, uint32_t relu, const T* residual,                 \
                                   unsigned char* mask, PRESENCE) {                                          \
    batchnorm::infer_present<T>(                                                                             \
        kExecution,                                                                                          \
        {{outer, channels, inner}, eps, x, y, weight, bias, {activation_of(relu), residual}, mask}, PRESENT, \
        mean, variance);                                                                                     \
  }                                                                                                          \
  EXPORT("gradSumsOfPresent" suffix)                                                                         \
  void batchnorm_grad_sums_of_present_##T(THROUGH_FORWARD(T), double* dy_sum, double* dy_xc, double*, T*,    \
                                          PRESENCE, double* bias_sum) {                                      \
    batchnorm::grad_sums_of_present<T>(kExecution, PASS_THROUGH, PRESENT, dresidual, {dy_sum, dy_xc},        \
                                       bias_sum);                                                            \
  }                                                                                                          \
  EXPORT("gradInputOfPresent" suffix)                                                                        \
  void batchnorm_grad_input_of_present_##T(THROUGH_FORWARD(T), double* dy_sum, double* dy_xc,                \
                                           const double* count, T* dx, PRESENCE, double*) {                  \
    batchnorm::grad_input_of_present<T>(kExecution, PASS_THROUGH, PRESENT, {dy_sum, dy_xc}, count, dx,       \
                                        dresidual);                                                          \
  }                                                                                                          \
  EXPORT("gradWeights" suffix)                                                                               \
  void batchnorm_grad_weights_##T(THROUGH_FORWARD(T), double* dy_sum, double* dy_xc, const double* count,    \
                                  double* dweights, const double* weights) {                                 \
    static_cast<void>(dresidual);                                                                            \
    batchnorm::grad_weights<T>(kExecution, PASS_THROUGH, {weights, false, false, false}, {dy_sum, dy_xc},    \
                               count, dweights);                                                             \
  }                                                                                                          \
  EXPORT("findMissing" suffix)                                                                               \
  double batchnorm_find_missing_##T(size_t outer, size_t channels, size_t inner, const T* x,                 \
                                    const double* weights) {                                                 \
    return static_cast<double>(                                                                              \
        batchnorm::find_missing<T>(kExecution, {outer, channels, inner}, x, weights));                       \
  }                                                                                                          \
  EXPORT("forwardRows" suffix)                                                                               \
  void batchnorm_forward_rows_##T(ROWS, const T* x, T* y, const T* weight, const T* bias, double* mean,      \
                                  double* variance, uint32_t relu, const T* residual, unsigned char* mask) { \
    batchnorm::forward_rows<T>(                                                                              \
        kExecution,                                                                                          \
        {ROW_SHAPE, eps, centred != 0, x, y, weight, bias, {activation_of(relu), residual}, mask}, mean,     \
        variance);                                                                                           \
  }                                                                                                          \
  EXPORT("backwardRows" suffix)                                                                              \
  void batchnorm_backward_rows_##T(ROWS, const T* dy, const T* x, const double* mean,                        \
                                   const double* variance, const T* weight, const T* bias, uint32_t relu,    \
                                   const T* residual, const unsigned char* mask, T* dresidual, T* dx,        \
                                   T* dweight, T* dbias) {                                                   \
    batchnorm::backward_rows<T>(kExecution,                                                                  \
                                {ROW_SHAPE,                                                                  \
                                 eps,                                                                        \
                                 centred != 0,                                                               \
                                 dy,                                                                         \
                                 x,                                                                          \
                                 mean,                                                                       \
                                 variance,                                                                   \
                                 weight,                                                                     \
                                 bias,                                                                       \
                                 {activation_of(relu), residual},                                            \
                                 mask},                                                                      \
                                {dx, dweight, dbias, dresidual});                                            \
  }                                                                                                          \
  EXPORT("frozenBytes" suffix) size_t batchnorm_frozen_bytes_##T(size_t channels) {                          \
    return batchnorm::frozen_bytes<T>(channels);                                                             \
  }                                                                                                          \
  EXPORT("freeze" suffix)                                                                                    \
  void batchnorm_freeze_##T(size_t channels, double eps, const T* weight, const T* bias, const double* mean, \
                            const double* variance, uint32_t relu, unsigned char* memory) {                  \
    batchnorm::freeze<T>(kExecution, {channels, eps, mean, variance, weight, bias, activation_of(relu)},     \
                         memory);                                                                            \
  }                                                                                                          \
  EXPORT("runFrozen" suffix)                                                                                 \
  void batchnorm_run_frozen_##T(size_t outer, size_t channels, size_t inner, const unsigned char* memory,    \
                                const T* x, T* y, const T* residual) {                                       \
    batchnorm::run_frozen<T>(kExecution, {outer, channels, inner}, memory, x, residual, y);                  \
  }

EXPORT_PASSES(float, "Float32")
EXPORT_PASSES(double, "Float64")

EXPORT("widen") void batchnorm_widen(uint32_t storage, const void* from, size_t count, float* to) {
  batchnorm::widen(kExecution, static_cast<batchnorm::Storage>(storage), from, count, to);
}
EXPORT("narrow") void batchnorm_narrow(uint32_t storage, const float* from, size_t count, void* to) {
  batchnorm::narrow(kExecution, from, static_cast<batchnorm::Storage>(storage), count, to);
}

namespace {

/// Of dimensions and their strides, `rank` numbers each.
batchnorm::Shape read_source(const double* view, size_t rank, size_t axis, size_t out_axis, uint32_t storage,
                             const void* x, batchnorm::Source& source) {
  source.storage = static_cast<batchnorm::Storage>(storage);
  source.at = x;
  return batchnorm::arrange(view, view + rank, rank, axis, out_axis, source);
}

}  // namespace

EXPORT("runStored")
void batchnorm_run_stored(const double* view, size_t rank, size_t axis, size_t out_axis,
                          const unsigned char* memory, uint32_t x_storage, const void* x, uint32_t y_storage,
                          void* y, const float* bias, uint32_t residual_storage, const void* residual) {
  batchnorm::Source source;
  const batchnorm::Shape shape = read_source(view, rank, axis, out_axis, x_storage, x, source);
  batchnorm::run_stored(kExecution, {shape, memory, source, static_cast<batchnorm::Storage>(residual_storage),
                                     residual, bias, static_cast<batchnorm::Storage>(y_storage), y});
}

EXPORT("findMissingStored")
double batchnorm_find_missing_stored(const double* view, size_t rank, size_t axis, size_t out_axis,
                                     uint32_t storage, const void* x) {
  batchnorm::Source source;
  const batchnorm::Shape shape = read_source(view, rank, axis, out_axis, storage, x, source);
  return static_cast<double>(batchnorm::find_missing_stored(kExecution, shape, source));
}
