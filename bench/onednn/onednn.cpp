// oneDNN (version 2 or 3) as a contender: its three primitives of batch norm, layer norm and, from
// version 3.3 on, group norm, on the caller's arrays, float32 or 16 bits. Built where its headers are
// installed.

#include <napi.h>

#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <utility>

namespace {

using dnnl::batch_normalization_backward;
using dnnl::batch_normalization_forward;
using dnnl::layer_normalization_backward;
using dnnl::layer_normalization_forward;
using dnnl::memory;
using dnnl::normalization_flags;
using dnnl::prop_kind;

const auto kAffine = normalization_flags::use_scale | normalization_flags::use_shift;

/// A primitive with what it reads and writes, which the garbage collector must not take.
struct Step {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
  std::shared_ptr<Napi::ObjectReference> arrays;
};

Napi::Function as_call(Napi::Env env, dnnl::stream stream, Step step) {
  return Napi::Function::New(env, [stream, step](const Napi::CallbackInfo& info) mutable {
    try {
      step.primitive.execute(stream, step.arguments);
      stream.wait();
    } catch (const dnnl::error& error) {
      throw Napi::Error::New(info.Env(), error.message);
    }
  });
}

/// The three passes of a norm.
struct Primitives {
  dnnl::primitive inference;
  dnnl::primitive training;
  dnnl::primitive backward;
};

Primitives batch_norm(const dnnl::engine& engine, const memory::desc& tensor, float eps) {
  const auto forward_of = [&](prop_kind kind, normalization_flags flags) {
#if DNNL_VERSION_MAJOR >= 3
    return batch_normalization_forward::primitive_desc(engine, kind, tensor, tensor, eps, flags);
#else
    return batch_normalization_forward::primitive_desc({kind, tensor, eps, flags}, engine);
#endif
  };
  const auto inference =
      forward_of(prop_kind::forward_inference, kAffine | normalization_flags::use_global_stats);
  const auto training = forward_of(prop_kind::forward_training, kAffine);
#if DNNL_VERSION_MAJOR >= 3
  const batch_normalization_backward::primitive_desc backward(engine, prop_kind::backward, tensor, tensor,
                                                              tensor, eps, kAffine, training);
#else
  const batch_normalization_backward::primitive_desc backward(
      {prop_kind::backward, tensor, tensor, eps, kAffine}, engine, training);
#endif
  return {batch_normalization_forward(inference), batch_normalization_forward(training),
          batch_normalization_backward(backward)};
}

Primitives layer_norm(const dnnl::engine& engine, const memory::desc& tensor, float eps) {
  const auto forward_of = [&](prop_kind kind) {
#if DNNL_VERSION_MAJOR >= 3
    return layer_normalization_forward::primitive_desc(engine, kind, tensor, tensor, eps, kAffine);
#else
    return layer_normalization_forward::primitive_desc({kind, tensor, eps, kAffine}, engine);
#endif
  };
  const auto training = forward_of(prop_kind::forward_training);
#if DNNL_VERSION_MAJOR >= 3
  const layer_normalization_backward::primitive_desc backward(engine, prop_kind::backward, tensor, tensor,
                                                              tensor, eps, kAffine, training);
#else
  const layer_normalization_backward::primitive_desc backward(
      {prop_kind::backward, tensor, tensor, eps, kAffine}, engine, training);
#endif
  return {layer_normalization_forward(forward_of(prop_kind::forward_inference)),
          layer_normalization_forward(training), layer_normalization_backward(backward)};
}

#if DNNL_VERSION_MAJOR > 3 || (DNNL_VERSION_MAJOR == 3 && DNNL_VERSION_MINOR >= 3)
constexpr bool kHasGroupNorm = true;

Primitives group_norm(const dnnl::engine& engine, const memory::desc& tensor, float eps, memory::dim groups) {
  const auto forward_of = [&](prop_kind kind) {
    return dnnl::group_normalization_forward::primitive_desc(engine, kind, tensor, tensor, groups, eps,
                                                             kAffine);
  };
  const auto training = forward_of(prop_kind::forward_training);
  const dnnl::group_normalization_backward::primitive_desc backward(
      engine, prop_kind::backward, tensor, tensor, tensor, groups, eps, kAffine, training);
  return {dnnl::group_normalization_forward(forward_of(prop_kind::forward_inference)),
          dnnl::group_normalization_forward(training), dnnl::group_normalization_backward(backward)};
}
#else
constexpr bool kHasGroupNorm = false;

Primitives group_norm(const dnnl::engine&, const memory::desc&, float, memory::dim) {
  throw dnnl::error(dnnl_unimplemented, "oneDNN has group normalization from version 3.3 on");
}
#endif

/// prepare({norm, groups, batch, channels, space, format, type, eps, x, dy, y, dx, weight, bias, mean,
/// variance, dWeight, dBias}): {inference, training, backward}. Arrays must live as long as what is returned:
/// Float32Array, and of tensors of another type than 'f32' Uint16Array. norm: 'batch', 'layer', whose rows
/// are the batch, or 'group'; format: 'nchw', 'nhwc' or 'nChw16c'; type: 'f32', 'bf16' or 'f16'.
Napi::Value prepare(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object given = info[0].As<Napi::Object>();
  const auto number = [&](const char* name) { return given.Get(name).As<Napi::Number>().Int64Value(); };
  const auto pointer = [&](const char* name) -> void* {
    const Napi::TypedArray array = given.Get(name).As<Napi::TypedArray>();
    return static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
  };
  const std::string norm = given.Get("norm").As<Napi::String>();
  const std::string format = given.Get("format").As<Napi::String>();
  const auto tag = format == "nhwc"   ? memory::format_tag::nhwc
                   : format == "nchw" ? memory::format_tag::nchw
                                      : memory::format_tag::nChw16c;
  const std::string named = given.Get("type").As<Napi::String>();
  const auto type = named == "bf16"  ? memory::data_type::bf16
                    : named == "f16" ? memory::data_type::f16
                                     : memory::data_type::f32;
  const float eps = given.Get("eps").As<Napi::Number>().FloatValue();
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const dnnl::stream stream(engine);
    const memory::dim batch = number("batch");
    const memory::dim groups = number("groups");
    const memory::desc tensor =
        norm == "layer" ? memory::desc({batch, number("channels")}, type, memory::format_tag::ab)
                        : memory::desc({batch, number("channels"), number("space"), 1}, type, tag);
    const memory::desc per_channel({number("channels")}, memory::data_type::f32, memory::format_tag::a);
    const memory::desc per_row =
        norm == "layer"   ? memory::desc({batch}, memory::data_type::f32, memory::format_tag::a)
        : norm == "group" ? memory::desc({batch, groups}, memory::data_type::f32, memory::format_tag::ab)
                          : per_channel;
    const auto values = [&](const char* name) { return memory(tensor, engine, pointer(name)); };
    const auto channels = [&](const char* name) { return memory(per_channel, engine, pointer(name)); };
    const auto rows = [&](const char* name) { return memory(per_row, engine, pointer(name)); };
    const std::unordered_map<int, memory> forward = {
        {DNNL_ARG_SRC, values("x")},          {DNNL_ARG_DST, values("y")},
        {DNNL_ARG_SCALE, channels("weight")}, {DNNL_ARG_SHIFT, channels("bias")},
        {DNNL_ARG_MEAN, rows("mean")},        {DNNL_ARG_VARIANCE, rows("variance")}};
    std::unordered_map<int, memory> backward = {{DNNL_ARG_SRC, values("x")},
                                                {DNNL_ARG_DIFF_DST, values("dy")},
                                                {DNNL_ARG_DIFF_SRC, values("dx")},
                                                {DNNL_ARG_SCALE, channels("weight")},
                                                {DNNL_ARG_MEAN, rows("mean")},
                                                {DNNL_ARG_VARIANCE, rows("variance")},
                                                {DNNL_ARG_DIFF_SCALE, channels("dWeight")},
                                                {DNNL_ARG_DIFF_SHIFT, channels("dBias")}};
    // Batch norm's primitive of version 3 refuses what it does not read.
    if (norm == "layer") backward.insert({DNNL_ARG_SHIFT, channels("bias")});
    const auto [inference, training, backward_pass] = norm == "layer" ? layer_norm(engine, tensor, eps)
                                                      : norm == "group"
                                                          ? group_norm(engine, tensor, eps, groups)
                                                          : batch_norm(engine, tensor, eps);
    const auto arrays = std::make_shared<Napi::ObjectReference>(Napi::Persistent(given));
    Napi::Object calls = Napi::Object::New(env);
    calls.Set("inference", as_call(env, stream, {inference, forward, arrays}));
    calls.Set("training", as_call(env, stream, {training, forward, arrays}));
    calls.Set("backward", as_call(env, stream, {backward_pass, backward, arrays}));
    return calls;
  } catch (const dnnl::error& error) {
    throw Napi::Error::New(env, error.message);
  }
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  exports.Set("hasGroupNorm", kHasGroupNorm);
  exports.Set("prepare", Napi::Function::New<prepare>(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(onednn, initialize)
