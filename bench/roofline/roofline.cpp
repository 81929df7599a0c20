// What the machine can do at best: copies and sums of streams, in every way that is ever the fastest; and
// what a call of native code takes that does nothing. Built for the benchmark alone.

#include <napi.h>

#include <algorithm>
#include <cstring>

#include "parallel.h"

#if BATCHNORM_X86
#include <immintrin.h>
#endif

namespace {

constexpr size_t kBlock = size_t{256} << 10;
constexpr size_t kAhead = size_t{16} << 10;

/// c = b ? a + b : a for a multiple of 16 values; c is 64-byte aligned.
using Stream = void (*)(const float* a, const float* b, float* c, size_t values);

template <bool Sum>
void portable(const float* a, const float* b, float* c, size_t values) {
  if constexpr (Sum)
    for (size_t i = 0; i < values; i++) c[i] = a[i] + b[i];
  else
    std::memcpy(c, a, values * sizeof(float));
}

#if BATCHNORM_X86
#define AVX2 __attribute__((target("avx2")))

template <bool Sum, bool NonTemporal, bool Prefetch>
AVX2 void avx2(const float* a, const float* b, float* c, size_t values) {
  for (size_t i = 0; i < values; i += 16) {
    if constexpr (Prefetch) {
      _mm_prefetch(reinterpret_cast<const char*>(a + i) + kAhead, _MM_HINT_T0);
      if constexpr (Sum) _mm_prefetch(reinterpret_cast<const char*>(b + i) + kAhead, _MM_HINT_T0);
    }
    for (size_t j = i; j < i + 16; j += 8) {
      __m256 value = _mm256_loadu_ps(a + j);
      if constexpr (Sum) value = _mm256_add_ps(value, _mm256_loadu_ps(b + j));
      if constexpr (NonTemporal)
        _mm256_stream_ps(c + j, value);
      else
        _mm256_storeu_ps(c + j, value);
    }
  }
  if constexpr (NonTemporal) _mm_sfence();
}
#endif

template <bool Sum>
const Stream* variants(size_t& count) {
#if BATCHNORM_X86
  static const Stream with_avx2[] = {portable<Sum>, avx2<Sum, false, false>, avx2<Sum, false, true>,
                                     avx2<Sum, true, false>, avx2<Sum, true, true>};
  if (__builtin_cpu_supports("avx2")) {
    count = 5;
    return with_avx2;
  }
#endif
  static const Stream plain[] = {portable<Sum>};
  count = 1;
  return plain;
}

/// stream(variant, threads, a, b | undefined, c): false where there is no such variant
Napi::Value stream(const Napi::CallbackInfo& info) {
  const size_t variant = info[0].As<Napi::Number>().Uint32Value();
  const size_t threads = info[1].As<Napi::Number>().Uint32Value();
  const Napi::Float32Array a = info[2].As<Napi::Float32Array>();
  const bool sum = !info[3].IsUndefined();
  const float* b = sum ? info[3].As<Napi::Float32Array>().Data() : nullptr;
  Napi::Float32Array c = info[4].As<Napi::Float32Array>();
  size_t count;
  const Stream* streams = sum ? variants<true>(count) : variants<false>(count);
  if (variant >= count) return Napi::Boolean::New(info.Env(), false);
  // Whole cache lines of c: what is left over is too little to be seen.
  const size_t skipped = (64 - reinterpret_cast<uintptr_t>(c.Data()) % 64) % 64 / sizeof(float);
  const size_t length = c.ElementLength();
  const size_t values = length < skipped ? 0 : (length - skipped) / 16 * 16;
  const size_t block = threads == 1 ? std::max<size_t>(values, 1) : kBlock / sizeof(float);
  const size_t blocks = (values + block - 1) / block;
  const float* from = a.Data() + skipped;
  const float* other = sum ? b + skipped : nullptr;
  float* to = c.Data() + skipped;
  batchnorm::parallel_for(threads, blocks, ~size_t{0}, false, [&](size_t task, size_t) {
    const size_t begin = task * block;
    streams[variant](from + begin, sum ? other + begin : nullptr, to + begin,
                     std::min(block, values - begin));
  });
  return Napi::Boolean::New(info.Env(), true);
}

/// call(outer, inner, x, y): reads what a pass from x to y must be told, as binding/arguments.h does.
napi_value call(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  size_t given = 4;
  napi_get_cb_info(env, info, &given, arguments, nullptr, nullptr);
  double sizes[2];
  void* values[2];
  size_t bytes[2];
  for (size_t i = 0; i < 2; i++) {
    napi_get_value_double(env, arguments[i], &sizes[i]);
    napi_get_buffer_info(env, arguments[2 + i], &values[i], &bytes[i]);
  }
  return nullptr;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  exports.Set("stream", Napi::Function::New<stream>(env));
  napi_value function;
  // Not by node-addon-api, whose wrappers are half of such a call.
  if (napi_create_function(env, "call", NAPI_AUTO_LENGTH, call, nullptr, &function) != napi_ok)
    throw Napi::Error::New(env);
  exports.Set("call", Napi::Value(env, function));
  return exports;
}

}  // namespace

NODE_API_MODULE(roofline, initialize)
