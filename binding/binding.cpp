// Node-API <-> plain structs. lib/backend/native.ts declares what is exported here.
//
// lib/validate.ts has decided what is meaningful. Here is decided what is safe, last thing before pointers
// are used and whoever calls: sizes whose product is one, and arrays of exactly the bytes that a pass wants,
// where values of its type may lie.

#include <napi.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "access.h"
#include "arguments.h"
#include "batchnorm.h"
#include "frozen_call.h"
#include "mpi.h"
#include "plan.h"
#include "platform.h"
#include "presence.h"
#include "rows.h"
#include "stored.h"

namespace binding {

void throw_caught(napi_env env) {
  try {
    throw;
  } catch (const BufferChanged& changed) {
    const std::string message =
        std::string(changed.name) +
        " must keep its length during a call, got a buffer that was detached or resized";
    napi_throw_error(env, "ERR_BATCHNORM_BUFFER_CHANGED", message.c_str());
  } catch (const Misaligned& array) {
    const std::string message = std::string(array.name) + " must begin at a multiple of " +
                                std::to_string(array.bytes) +
                                " bytes in memory, got an external ArrayBuffer that does not; copy it";
    napi_throw_range_error(env, "ERR_BATCHNORM_INVALID_VALUE", message.c_str());
  } catch (const Overlap& overlap) {
    const std::string message = std::string(overlap.name) + " must " + overlap.rule +
                                ", got views that share " + std::to_string(overlap.bytes) + " bytes";
    napi_throw_range_error(env, "ERR_BATCHNORM_OVERLAP", message.c_str());
  } catch (const InvalidCall& call) {
    const std::string message = std::string("the native binary must ") + call.rule + ", got something else";
    napi_throw_type_error(env, "ERR_BATCHNORM_NATIVE", message.c_str());
  } catch (const std::system_error& error) {
    const std::string message =
        std::string("an asynchronous operation must have a thread, got none (") + error.what() + ")";
    napi_throw_error(env, "ERR_BATCHNORM_NO_THREAD", message.c_str());
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (const std::bad_alloc&) {
    napi_throw_range_error(env, "ERR_BATCHNORM_OUT_OF_MEMORY",
                           "an operation must fit into memory, got no more of it");
  } catch (const std::exception& error) {
    napi_throw_error(env, "ERR_BATCHNORM_NATIVE", error.what());
  } catch (...) {
    napi_throw_error(env, "ERR_BATCHNORM_NATIVE", "unknown exception");
  }
}

}  // namespace binding

namespace {

using namespace binding;

/// The parameters of forwardTraining and forwardInference: (outer, channels, inner, eps, x, y, weight?,
/// bias?, mean, variance, relu, residual?, mask?). The pass is given to run(pass, mean, variance); whether y
/// is x.
template <typename S, typename Arguments, typename Run>
napi_value forward_with(const Arguments& arguments, Run run) {
  const Shape shape = arguments.shape(0, arguments.size(1), 2);
  const double eps = arguments.number(3);
  const auto x = arguments.template array<const S>(4, shape.size(), "x.data");
  const auto y = arguments.template array<S>(5, shape.size(), kOut);
  const auto weight = arguments.template optional_array<const Compute<S>>(6, shape.channels, "weight");
  const auto bias = arguments.template optional_array<const Compute<S>>(7, shape.channels, "bias");
  const auto mean = arguments.template array<double>(8, shape.channels, "mean");
  const auto variance = arguments.template array<double>(9, shape.channels, "variance");
  const Activation activation = arguments.activation(10);
  const auto residual = arguments.template optional_array<const S>(11, shape.size(), "residual.data");
  const auto mask = arguments.template optional_array<unsigned char>(12, batchnorm::mask_bytes(shape.size()),
                                                                     "the mask of the activation");
  const bool in_place = is_in_place<S>(y, x, kOverX);
  check_apart(y, residual, kOffResidual);
  check_apart(y, weight, kOffWeight);
  check_apart(y, bias, kOffBias);
  check_apart(y, mean, kOffMean);
  check_apart(y, variance, kOffVariance);
  run(batchnorm::Forward<S>{shape, eps, x.at, y.at, weight.at, bias.at, {activation, residual.at}, mask.at},
      mean.at, variance.at);
  return Napi::Boolean::New(arguments.env(), in_place);
}

template <typename S, auto Compute, typename When>
napi_value forward(napi_env env, napi_callback_info info) {
  const Arguments<13 + When::kArguments> arguments(env, info);
  return forward_with<S>(arguments, [&](const auto& pass, double* mean, double* variance) {
    When::run(arguments,
              [=, execution = When::execution(arguments)] { Compute(execution, pass, mean, variance); });
  });
}

/// moments(outer, channels, inner, x, mean, variance)
template <typename S, typename When>
napi_value moments(napi_env env, napi_callback_info info) {
  const Arguments<6 + When::kArguments> arguments(env, info);
  const Shape shape = arguments.shape(0, arguments.size(1), 2);
  const auto x = arguments.template array<const S>(3, shape.size(), "x.data");
  const auto mean = arguments.template array<double>(4, shape.channels, "mean");
  const auto variance = arguments.template array<double>(5, shape.channels, "variance");
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::moments<S>(execution, shape, x.at, mean.at, variance.at);
  });
  return nullptr;
}

/// (samples, outer, groups, channels, inner, eps, centred), of passes over rows.
constexpr size_t kRowArguments = 7;
template <typename Arguments>
batchnorm::RowShape row_shape(const Arguments& arguments) {
  const batchnorm::RowShape shape = {arguments.size(0), arguments.size(1), arguments.channels(2),
                                     arguments.channels(3), arguments.size(4)};
  double size = 1;
  for (const size_t dimension : {shape.samples, shape.outer, shape.groups, shape.channels, shape.inner}) {
    size *= static_cast<double>(dimension);
    // An empty x may have as many groups and channels as another.
    if (size > Arguments::kLargest) throw InvalidCall{"be given a shape that memory can hold"};
  }
  return shape;
}

/// forwardRows(..., x, y?, weight?, bias?, mean, variance, relu, residual?, mask?): whether y is x
template <typename S, typename When>
napi_value forward_rows(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = kRowArguments;
  const Arguments<kBegin + 9 + When::kArguments> arguments(env, info);
  const batchnorm::RowShape shape = row_shape(arguments);
  const double eps = arguments.number(5);
  const bool centred = arguments.boolean(6);
  const size_t size = shape.size(), parameters = shape.parameters();
  const auto x = arguments.template array<const S>(kBegin, size, "x.data");
  const auto y = arguments.template optional_array<S>(kBegin + 1, size, kOut);
  const auto weight = arguments.template optional_array<const Compute<S>>(kBegin + 2, parameters, "weight");
  const auto bias = arguments.template optional_array<const Compute<S>>(kBegin + 3, parameters, "bias");
  const auto mean = arguments.template array<double>(kBegin + 4, shape.rows(), "mean");
  const auto variance = arguments.template array<double>(kBegin + 5, shape.rows(), "variance");
  const Activation activation = arguments.activation(kBegin + 6);
  const auto residual = arguments.template optional_array<const S>(kBegin + 7, size, "residual.data");
  const auto mask = arguments.template optional_array<unsigned char>(
      kBegin + 8, batchnorm::row_mask_bytes(shape), "the mask of the activation");
  bool in_place = false;
  if (y.at) {
    in_place = is_in_place<S>(y, x, kOverX);
    check_apart(y, residual, kOffResidual);
    check_apart(y, weight, kOffWeight);
    check_apart(y, bias, kOffBias);
    check_apart(y, mean, kOffMean);
    check_apart(y, variance, kOffVariance);
  }
  const batchnorm::RowForward<S> pass = {
      shape, eps, centred, x.at, y.at, weight.at, bias.at, {activation, residual.at}, mask.at};
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::forward_rows<S>(execution, pass, mean.at, variance.at);
  });
  return Napi::Boolean::New(env, in_place);
}

/// backwardRows(..., dy, x, mean, variance, weight?, bias?, relu, residual?, mask?, dResidual?, dx?,
/// dWeight?, dBias?)
template <typename S, typename When>
napi_value backward_rows(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = kRowArguments;
  const Arguments<kBegin + 13 + When::kArguments> arguments(env, info);
  const batchnorm::RowShape shape = row_shape(arguments);
  const size_t size = shape.size(), parameters = shape.parameters();
  const auto dy = arguments.template array<const S>(kBegin, size, "dy.data");
  const auto x = arguments.template array<const S>(kBegin + 1, size, "x.data");
  const auto mean = arguments.template array<const double>(kBegin + 2, shape.rows(), "mean");
  const auto variance = arguments.template array<const double>(kBegin + 3, shape.rows(), "variance");
  const auto weight = arguments.template optional_array<const Compute<S>>(kBegin + 4, parameters, "weight");
  const auto bias = arguments.template optional_array<const Compute<S>>(kBegin + 5, parameters, "bias");
  const Activation activation = arguments.activation(kBegin + 6);
  const auto residual = arguments.template optional_array<const S>(kBegin + 7, size, "residual.data");
  const auto mask = arguments.template optional_array<const unsigned char>(
      kBegin + 8, batchnorm::row_mask_bytes(shape), "the mask of the activation");
  const auto dresidual = arguments.template optional_array<S>(kBegin + 9, size, "the gradient of residual");
  const auto dx = arguments.template optional_array<S>(kBegin + 10, size, kOut);
  const auto dweight =
      arguments.template optional_array<Compute<S>>(kBegin + 11, parameters, "the gradient of weight");
  const auto dbias =
      arguments.template optional_array<Compute<S>>(kBegin + 12, parameters, "the gradient of bias");
  // What is let through is kept there: sums and dx come of it.
  const bool gated = activation != batchnorm::kIdentity && (residual.at || mask.at) && size > 0;
  if (gated && !dresidual.at) throw InvalidCall{"be given room for the gradient of a residual"};
  if (dx.at) {
    is_in_place<S>(dx, dy, "be dy.data itself or not overlap it");
    check_apart(dx, x, kOffX);
    check_apart(dx, residual, kOffResidual);
    check_apart(dx, weight, kOffWeight);
    check_apart(dx, bias, kOffBias);
    check_apart(dx, mean, kOffMean);
    check_apart(dx, variance, kOffVariance);
  }
  const batchnorm::RowBackward<S> pass = {shape,
                                          arguments.number(5),
                                          arguments.boolean(6),
                                          dy.at,
                                          x.at,
                                          mean.at,
                                          variance.at,
                                          weight.at,
                                          bias.at,
                                          {activation, residual.at},
                                          mask.at};
  const batchnorm::Gradients<S> gradients = {dx.at, dweight.at, dbias.at, dresidual.at};
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::backward_rows<S>(execution, pass, gradients);
  });
  return nullptr;
}

/// What all that goes back through a forward pass begins with: (outer, channels, inner, eps, dy, x, mean,
/// variance, weight?, bias?, relu, residual?, mask?, dResidual?)
template <typename S>
struct BackwardArguments {
  static constexpr size_t kCount = 14;
  template <typename Arguments>
  explicit BackwardArguments(const Arguments& arguments)
      : shape(arguments.shape(0, arguments.size(1), 2)),
        eps(arguments.number(3)),
        dy(arguments.template array<const S>(4, shape.size(), "dy.data")),
        x(arguments.template array<const S>(5, shape.size(), "x.data")),
        mean(arguments.template array<const double>(6, shape.channels, "mean")),
        variance(arguments.template array<const double>(7, shape.channels, "variance")),
        weight(arguments.template optional_array<const Compute<S>>(8, shape.channels, "weight")),
        bias(arguments.template optional_array<const Compute<S>>(9, shape.channels, "bias")),
        activation(arguments.activation(10)),
        residual(arguments.template optional_array<const S>(11, shape.size(), "residual.data")),
        mask(arguments.template optional_array<const unsigned char>(12, batchnorm::mask_bytes(shape.size()),
                                                                    "the mask of the activation")),
        dresidual(arguments.template optional_array<S>(13, shape.size(), "the gradient of residual")) {}

  batchnorm::Backward<S> pass() const {
    return {shape,  eps, dy.at, x.at, mean.at, variance.at, weight.at, bias.at, {activation, residual.at},
            mask.at};
  }
  /// As batchnorm.h has it: dresidual is where a mask is computed, and where what it lets through is kept.
  void check_room(bool writes) const {
    // An empty array may have no address, and needs none.
    const bool gated = activation != batchnorm::kIdentity && (residual.at || mask.at) && shape.size() > 0;
    if (gated && !dresidual.at && (writes || !mask.at))
      throw InvalidCall{"be given room for the gradient of a residual"};
  }
  void check_result(Values<S> dx) const {
    if (!dx.at) return;
    is_in_place<S>(dx, dy, "be dy.data itself or not overlap it");
    check_apart(dx, x, kOffX);
    check_apart(dx, residual, kOffResidual);
    check_apart(dx, weight, kOffWeight);
    check_apart(dx, bias, kOffBias);
    check_apart(dx, mean, kOffMean);
    check_apart(dx, variance, kOffVariance);
  }

  Shape shape;
  double eps;
  Values<const S> dy, x;
  Values<const double> mean, variance;
  Values<const Compute<S>> weight, bias;
  Activation activation;
  Values<const S> residual;
  Values<const unsigned char> mask;
  Values<S> dresidual;
};

/// backward(..., training, dx?, dWeight?, dBias?)
template <typename S, typename When>
napi_value backward(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 4 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const size_t channels = given.shape.channels;
  const bool training = arguments.boolean(kBegin);
  const auto dx = arguments.template optional_array<S>(kBegin + 1, given.shape.size(), kOut);
  const auto dweight =
      arguments.template optional_array<Compute<S>>(kBegin + 2, channels, "the gradient of weight");
  const auto dbias =
      arguments.template optional_array<Compute<S>>(kBegin + 3, channels, "the gradient of bias");
  given.check_room(dx.at);
  given.check_result(dx);
  const batchnorm::Gradients<S> gradients = {dx.at, dweight.at, dbias.at, given.dresidual.at};
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::backward<S>(execution, given.pass(), training, gradients);
  });
  return nullptr;
}

/// sumDy and sumDyXmu, from argument `index` on
template <typename Arguments>
batchnorm::GradientSums sums_at(const Arguments& arguments, size_t index, size_t channels) {
  return {arguments.template array<double>(index, channels, "sumDy").at,
          arguments.template array<double>(index + 1, channels, "sumDyXmu").at};
}

/// gradSums(..., sumDy, sumDyXmu, and two that it does not read, as gradInput)
template <typename S, typename When>
napi_value grad_sums(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 4 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const batchnorm::GradientSums sums = sums_at(arguments, kBegin, given.shape.channels);
  given.check_room(false);
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::grad_sums<S>(execution, given.pass(), given.dresidual.at, sums);
  });
  return nullptr;
}

/// gradInput(..., sumDy, sumDyXmu, count, dx)
template <typename S, typename When>
napi_value grad_input(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 4 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const batchnorm::GradientSums sums = sums_at(arguments, kBegin, given.shape.channels);
  const double count = arguments.number(kBegin + 2);
  const auto dx = arguments.template array<S>(kBegin + 3, given.shape.size(), kOut);
  given.check_room(dx.at);
  given.check_result(dx);
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::grad_input<S>(execution, given.pass(), sums, count, dx.at, given.dresidual.at);
  });
  return nullptr;
}

/// gradParameters(channels, eps, mean, variance, sumDy, sumDyXmu, dWeight?, dBias?)
template <typename S>
napi_value grad_parameters(napi_env env, napi_callback_info info) {
  const Arguments<8> arguments(env, info);
  const size_t channels = arguments.channels(0);
  const double eps = arguments.number(1);
  const auto mean = arguments.template array<const double>(2, channels, "mean");
  const auto variance = arguments.template array<const double>(3, channels, "variance");
  const batchnorm::GradientSums sums = sums_at(arguments, 4, channels);
  const auto dweight = arguments.template optional_array<Compute<S>>(6, channels, "the gradient of weight");
  const auto dbias = arguments.template optional_array<Compute<S>>(7, channels, "the gradient of bias");
  batchnorm::grad_parameters<Compute<S>>(execution_of(env, arguments.storage()), channels, eps, mean.at,
                                         variance.at, sums, dweight.at, dbias.at);
  return nullptr;
}

/// What counts, from argument `index` on: weights?, missing, impute, zero
template <typename Arguments>
batchnorm::Presence presence_at(const Arguments& arguments, size_t index, Shape shape) {
  return {arguments.template optional_array<const double>(index, shape.outer * shape.inner, "weights").at,
          arguments.boolean(index + 1), arguments.boolean(index + 2), arguments.boolean(index + 3)};
}

/// momentsOfPresent(outer, channels, inner, x, mean, variance, count, squares, weights?, missing, impute,
/// zero)
template <typename S, typename When>
napi_value moments_of_present(napi_env env, napi_callback_info info) {
  const Arguments<12 + When::kArguments> arguments(env, info);
  const Shape shape = arguments.shape(0, arguments.size(1), 2);
  const auto x = arguments.template array<const S>(3, shape.size(), "x.data");
  const auto array = [&](size_t index, const char* name) {
    return arguments.template array<double>(index, shape.channels, name).at;
  };
  const batchnorm::Statistics statistics = {array(6, "count"), array(7, "squares"), array(4, "mean"),
                                            array(5, "variance")};
  const batchnorm::Presence presence = presence_at(arguments, 8, shape);
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::moments_of_present<S>(execution, shape, x.at, presence, statistics);
  });
  return nullptr;
}

/// inferPresent(..., weights?, missing, impute, zero): as forwardInference
template <typename S, typename When>
napi_value infer_present(napi_env env, napi_callback_info info) {
  const Arguments<17 + When::kArguments> arguments(env, info);
  return forward_with<S>(arguments, [&](const auto& pass, double* mean, double* variance) {
    const batchnorm::Presence presence = presence_at(arguments, 13, pass.shape);
    When::run(arguments, [=, execution = When::execution(arguments)] {
      batchnorm::infer_present<S>(execution, pass, presence, mean, variance);
    });
  });
}

/// gradSumsOfPresent(..., sumDy, sumDyXmu, count?, dx?, weights?, missing, impute, zero, sumBias?), of which
/// it reads neither count nor dx
template <typename S, typename When>
napi_value grad_sums_of_present(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 9 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const batchnorm::GradientSums sums = sums_at(arguments, kBegin, given.shape.channels);
  const batchnorm::Presence presence = presence_at(arguments, kBegin + 4, given.shape);
  const auto bias = arguments.template optional_array<double>(kBegin + 8, given.shape.channels, "sumBias");
  given.check_room(false);
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::grad_sums_of_present<S>(execution, given.pass(), presence, given.dresidual.at, sums, bias.at);
  });
  return nullptr;
}

/// gradInputOfPresent(as gradSumsOfPresent), which does not read sumBias
template <typename S, typename When>
napi_value grad_input_of_present(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 9 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const batchnorm::GradientSums sums = sums_at(arguments, kBegin, given.shape.channels);
  const auto count =
      arguments.template optional_array<const double>(kBegin + 2, given.shape.channels, "count");
  const auto dx = arguments.template optional_array<S>(kBegin + 3, given.shape.size(), kOut);
  const batchnorm::Presence presence = presence_at(arguments, kBegin + 4, given.shape);
  given.check_room(dx.at);
  given.check_result(dx);
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::grad_input_of_present<S>(execution, given.pass(), presence, sums, count.at, dx.at,
                                        given.dresidual.at);
  });
  return nullptr;
}

/// gradWeights(as gradSumsOfPresent, in the place of dx dWeights), which reads of what counts the weights
/// alone
template <typename S, typename When>
napi_value grad_weights(napi_env env, napi_callback_info info) {
  constexpr size_t kBegin = BackwardArguments<S>::kCount;
  const Arguments<kBegin + 9 + When::kArguments> arguments(env, info);
  const BackwardArguments<S> given(arguments);
  const batchnorm::GradientSums sums = sums_at(arguments, kBegin, given.shape.channels);
  const size_t positions = given.shape.outer * given.shape.inner;
  const auto count = arguments.template array<const double>(kBegin + 2, given.shape.channels, "count");
  const auto dweights = arguments.template array<double>(kBegin + 3, positions, "the gradient of weights");
  const auto weights = arguments.template array<const double>(kBegin + 4, positions, "weights");
  When::run(arguments, [=, execution = When::execution(arguments)] {
    batchnorm::grad_weights<S>(execution, given.pass(), {weights.at, false, false, false}, sums, count.at,
                               dweights.at);
  });
  return nullptr;
}

/// findMissing(outer, channels, inner, x, weights?): the place of the first NaN that counts, or the size of x
template <typename S>
napi_value find_missing(napi_env env, napi_callback_info info) {
  const Arguments<5> arguments(env, info);
  const Shape shape = arguments.shape(0, arguments.size(1), 2);
  const auto x = arguments.template array<const S>(3, shape.size(), "x.data");
  const auto weights =
      arguments.template optional_array<const double>(4, shape.outer * shape.inner, "weights");
  const size_t found =
      batchnorm::find_missing<S>(execution_of(env, arguments.storage()), shape, x.at, weights.at);
  return Napi::Number::New(env, static_cast<double>(found));
}

/// frozenBytes(channels)
template <typename T>
napi_value frozen_bytes(napi_env env, napi_callback_info info) {
  const size_t channels = Arguments<1>(env, info).channels(0);
  return Napi::Number::New(env, static_cast<double>(batchnorm::frozen_bytes<T>(channels)));
}

/// freeze(channels, eps, weight?, bias?, mean, variance, relu, memory of frozenBytes)
template <typename T>
napi_value freeze(napi_env env, napi_callback_info info) {
  const Arguments<8> arguments(env, info);
  const size_t channels = arguments.channels(0);
  const batchnorm::Fixed<T> fixed = {
      channels,
      arguments.number(1),
      arguments.template array<const double>(4, channels, "mean").at,
      arguments.template array<const double>(5, channels, "variance").at,
      arguments.template optional_array<const T>(2, channels, "weight").at,
      arguments.template optional_array<const T>(3, channels, "bias").at,
      arguments.activation(6),
  };
  batchnorm::freeze<T>(execution_of(env, arguments.storage()), fixed,
                       arguments.memory(7, batchnorm::frozen_bytes<T>(channels)));
  return nullptr;
}

batchnorm::Storage storage_at(double number) {
  if (!(number >= 0 && number < batchnorm::kStorages)) throw InvalidCall{"be given a storage type"};
  return static_cast<batchnorm::Storage>(static_cast<int>(number));
}

/// The bytes of an array of values of a storage type, where such values may lie; `length` of them, or any
/// number.
template <typename Arguments>
Values<unsigned char> stored_at(const Arguments& arguments, size_t index, batchnorm::Storage storage,
                                const char* name, size_t length = SIZE_MAX) {
  void* values = nullptr;
  size_t bytes = 0;
  const size_t each = batchnorm::bytes_of(storage);
  if (napi_get_buffer_info(arguments.env(), arguments[index], &values, &bytes) != napi_ok ||
      (length != SIZE_MAX && bytes != length * each))
    throw BufferChanged{name};
  if (reinterpret_cast<uintptr_t>(values) % each != 0) throw Misaligned{name, each};
  return {static_cast<unsigned char*>(values), bytes};
}

/// widen(storage, from, to), narrow(storage, from, to)
template <bool Widens>
napi_value convert(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  const batchnorm::Storage storage = storage_at(arguments.number(0));
  const size_t length = stored_at(arguments, Widens ? 1 : 2, storage, "values").length / bytes_of(storage);
  if constexpr (Widens) {
    const auto from = stored_at(arguments, 1, storage, "values", length);
    const auto to = arguments.array<float>(2, length, kOut);
    check_apart(to, from, kOffValues);
    batchnorm::widen(execution_of(env, storage), storage, from.at, length, to.at);
  } else {
    const auto from = arguments.array<const float>(1, length, "values");
    const auto to = stored_at(arguments, 2, storage, kOut, length);
    check_apart(to, from, kOffValues);
    batchnorm::narrow(execution_of(env, storage), from.at, storage, length, to.at);
  }
  return nullptr;
}

/// A tensor of any strides: a view, which is the numbers axis, outAxis, offset, all dimensions and all
/// strides; the storage type; the array that it lies in.
struct StoredTensor {
  Shape shape;
  batchnorm::Source source;
  /// From its first value in memory to its last.
  Values<unsigned char> span;

  template <typename Arguments>
  StoredTensor(const Arguments& arguments, size_t index, size_t storage_index, size_t array_index,
               size_t channels) {
    void* numbers = nullptr;
    size_t bytes = 0;
    constexpr size_t kBefore = 3;
    if (napi_get_buffer_info(arguments.env(), arguments[index], &numbers, &bytes) != napi_ok ||
        reinterpret_cast<uintptr_t>(numbers) % alignof(double) != 0)
      throw invalid();
    const size_t rank = (bytes / sizeof(double) - kBefore) / 2;
    if (bytes != (kBefore + 2 * rank) * sizeof(double) || rank < 1 || rank > batchnorm::Steps::kMost)
      throw invalid();
    const auto* const view = static_cast<const double*>(numbers);
    const double* const dimensions = view + kBefore;
    const double* const strides = dimensions + rank;
    if (!(is_whole(view[0]) && view[0] >= 0 && view[0] < rank && is_whole(view[1]) && view[1] >= 0 &&
          view[1] < rank && is_whole(view[2])))
      throw invalid();
    const auto axis = static_cast<size_t>(view[0]);
    double size = 1;
    double least = view[2], most = view[2];
    for (size_t i = 0; i < rank; i++) {
      if (!is_whole(dimensions[i]) || dimensions[i] < 0 || !is_whole(strides[i])) throw invalid();
      size *= dimensions[i];
      (strides[i] < 0 ? least : most) += (dimensions[i] - 1) * strides[i];
    }
    if (dimensions[axis] < 1 || (channels != 0 && dimensions[axis] != static_cast<double>(channels)) ||
        size > Arguments::kLargest)
      throw invalid();
    source.storage = storage_at(arguments.number(storage_index));
    const size_t each = bytes_of(source.storage);
    const auto array = stored_at(arguments, array_index, source.storage, "x.data");
    shape = arrange(dimensions, strides, rank, axis, static_cast<size_t>(view[1]), source);
    source.at = array.at;
    span = {array.at, 0};
    if (size == 0) return;
    if (!(least >= 0 && most < static_cast<double>(array.length / each))) throw BufferChanged{"x.data"};
    source.at = array.at + static_cast<size_t>(view[2]) * each;
    span = {array.at + static_cast<size_t>(least) * each, static_cast<size_t>(most - least + 1) * each};
  }

 private:
  static InvalidCall invalid() { return {"be given a view of a tensor"}; }
  static bool is_whole(double number) {
    constexpr double kMost = 9007199254740992.0;
    return number >= -kMost && number <= kMost && number == std::trunc(number);
  }
};

/// runStored(view, memory, xStorage, x, yStorage, y, bias?, residualStorage, residual?)
template <typename When>
napi_value run_stored(napi_env env, napi_callback_info info) {
  const Arguments<9 + When::kArguments> arguments(env, info);
  const auto memory = arguments.memory(1);
  const size_t channels = batchnorm::frozen_channels<float>(memory.at, memory.length);
  if (channels == 0) throw InvalidCall{"be given the memory of a frozen layer"};
  const StoredTensor x(arguments, 0, 2, 3, channels);
  const size_t size = x.shape.size();
  const batchnorm::Storage y_storage = storage_at(arguments.number(4));
  const auto y = stored_at(arguments, 5, y_storage, kOut, size);
  const auto bias = arguments.template optional_array<const float>(6, channels, "bias");
  const batchnorm::Storage residual_storage = storage_at(arguments.number(7));
  napi_valuetype type = napi_undefined;
  napi_typeof(env, arguments[8], &type);
  const auto residual = type == napi_undefined
                            ? Values<unsigned char>{nullptr, 0}
                            : stored_at(arguments, 8, residual_storage, "residual.data", size);
  if (bytes_of(y_storage) == bytes_of(x.source.storage) && lies_alike(x.shape, x.source))
    is_in_place<unsigned char>(y, {x.span.at, x.span.length}, kOverX);
  else
    check_apart(y, x.span, kOffX);
  check_apart(y, residual, kOffResidual);
  const batchnorm::StoredPass pass = {x.shape,     memory.at, x.source,  residual_storage,
                                      residual.at, bias.at,   y_storage, y.at};
  When::run(arguments,
            [pass, execution = When::execution(arguments)] { batchnorm::run_stored(execution, pass); });
  return nullptr;
}

/// findMissingStored(view, xStorage, x): the place in y of the first NaN, or the size of x
napi_value find_missing_stored(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  const StoredTensor x(arguments, 0, 1, 2, 0);
  const size_t place = batchnorm::find_missing_stored(execution_of(env, x.source.storage), x.shape, x.source);
  return Napi::Number::New(env, static_cast<double>(place));
}

/// release(memory): detaches an ArrayBuffer, so that its memory is freed before it is collected
napi_value release(napi_env env, napi_callback_info info) {
  napi_detach_arraybuffer(env, Arguments<1>(env, info)[0]);
  return nullptr;
}

/// updateRunningStats(mean, variance, channels, count, decay, unbiased, runningMean, runningVar, accepted?):
/// rejected channels
napi_value update_running_stats(napi_env env, napi_callback_info info) {
  const Arguments<9> arguments(env, info);
  const size_t channels = arguments.channels(2);
  const auto mean = arguments.array<const double>(0, channels, "mean");
  const auto variance = arguments.array<const double>(1, channels, "variance");
  const auto running_mean = arguments.array<double>(6, channels, "runningMean");
  const auto running_var = arguments.array<double>(7, channels, "runningVar");
  const auto accepted = arguments.optional_array<double>(8, channels, "the batches of each channel");
  check_apart(running_mean, running_var, "not overlap runningVar", "runningMean");
  for (const auto& [name, running] : {std::pair{"runningMean", running_mean}, {"runningVar", running_var}}) {
    check_apart(running, mean, kOffMean, name);
    check_apart(running, variance, kOffVariance, name);
  }
  const size_t rejected = batchnorm::update_running_stats(
      *instance_of(env).kernels, channels, mean.at, variance.at, arguments.number(3), arguments.number(4),
      arguments.boolean(5), running_mean.at, running_var.at, accepted.at);
  return Napi::Number::New(env, static_cast<double>(rejected));
}

/// isAligned(array, bytes): whether it begins where values of so many bytes may lie
napi_value is_aligned(napi_env env, napi_callback_info info) {
  const Arguments<2> arguments(env, info);
  const size_t alignment = std::max<size_t>(1, arguments.size(1));
  void* values = nullptr;
  size_t bytes = 0;
  napi_get_buffer_info(env, arguments[0], &values, &bytes);
  return Napi::Boolean::New(env, reinterpret_cast<uintptr_t>(values) % alignment == 0);
}

/// adviseHugePages(array): first touches of 4 KiB at a time cost more than a batch norm does.
napi_value advise_huge_pages(napi_env env, napi_callback_info info) {
  void* values = nullptr;
  size_t bytes = 0;
  if (napi_get_buffer_info(env, Arguments<1>(env, info)[0], &values, &bytes) == napi_ok)
    binding::advise_huge_pages(values, bytes);
  return nullptr;
}

/// setThreads(count)
napi_value set_threads(napi_env env, napi_callback_info info) {
  thread_count.store(Arguments<1>(env, info).size(0), std::memory_order_relaxed);
  return nullptr;
}

/// threads(): count
napi_value threads(napi_env env, napi_callback_info) {
  return Napi::Number::New(env, static_cast<double>(thread_count.load(std::memory_order_relaxed)));
}

/// setMachine(cpus, cacheBytes, mostStreamBytes, streamBytesPerThread)
napi_value set_machine(napi_env env, napi_callback_info info) {
  const Arguments<4> arguments(env, info);
  Instance& settings = instance_of(env);
  settings.cpus = arguments.size(0);
  settings.cache_bytes = arguments.size(1);
  settings.most_stream_bytes = arguments.size(2);
  settings.stream_bytes_per_thread = arguments.size(3);
  return nullptr;
}

/// useIsa(name): whether this CPU can run it
napi_value use_isa(napi_env env, napi_callback_info info) {
  const std::string name = Napi::String(env, Arguments<1>(env, info)[0]);
  const batchnorm::KernelTable* table = batchnorm::find_kernel_table(name);
  if (table) instance_of(env).kernels = table;
  return Napi::Boolean::New(env, table != nullptr);
}

/// plan(outer, channels, inner, bytesPerValue, summed): what is decided about a pass whose sums read so many
/// tensors, in words. For the benchmark.
template <typename S>
std::string plan_in_words(const Execution& execution, const Shape& shape, size_t summed) {
  const auto& kernels = batchnorm::kernels_of<Compute<S>>(*execution.kernels);
  const batchnorm::Partition<Compute<S>> partition(shape);
  if (summed == 0) return describe(batchnorm::plan_of_write<S>(execution, partition, false));
  const bool has_beside =
      batchnorm::Access<S>::kBeside &&
      (summed == 1 ? kernels.normalize[false][batchnorm::kIdentity].stream_beside != nullptr
                   : kernels.grad_input[batchnorm::kOpen].stream_beside != nullptr);
  return describe(batchnorm::plan_of<S>(execution, partition, {summed, true, false, has_beside}));
}
napi_value plan(napi_env env, napi_callback_info info) {
  const Arguments<5> arguments(env, info);
  const Shape shape = arguments.shape(0, arguments.size(1), 2);
  const size_t summed = arguments.size(4);
  if (summed > 2 || shape.size() == 0) throw InvalidCall{"be asked for a pass over values"};
  const Execution execution = execution_of(env, arguments.storage());
  const size_t bytes = arguments.size(3);
  const std::string words = bytes == sizeof(double)  ? plan_in_words<double>(execution, shape, summed)
                            : bytes == sizeof(float) ? plan_in_words<float>(execution, shape, summed)
                                                     : plan_in_words<Half>(execution, shape, summed);
  return Napi::String::New(env, words);
}

/// onFinished(handler): see Mailbox::open. Once.
napi_value on_finished(napi_env env, napi_callback_info info) {
  if (!instance_of(env).mailbox.open(env, Arguments<1>(env, info)[0])) throw Napi::Error::New(env);
  return nullptr;
}

/// takeFinished(slots): how many; see Mailbox::take
napi_value take_finished(napi_env env, napi_callback_info info) {
  void* slots = nullptr;
  size_t bytes = 0;
  if (napi_get_buffer_info(env, Arguments<1>(env, info)[0], &slots, &bytes) != napi_ok ||
      reinterpret_cast<uintptr_t>(slots) % alignof(int32_t) != 0)
    throw InvalidCall{"be given an Int32Array"};
  const size_t taken =
      instance_of(env).mailbox.take(env, static_cast<int32_t*>(slots), bytes / sizeof(int32_t));
  return Napi::Number::New(env, static_cast<double>(taken));
}

/// cancel(slot): whether the operation had not begun
napi_value cancel(napi_env env, napi_callback_info info) {
  return Napi::Boolean::New(env, instance_of(env).mailbox.cancel(env, Arguments<1>(env, info).slot(0)));
}

#if !defined(_WIN32)
/// load(library): what it says it is
napi_value mpi_load(napi_env env, napi_callback_info info) {
  const std::string library = Napi::String(env, Arguments<1>(env, info)[0]);
  return Napi::String::New(env, binding::mpi::load(library.c_str()));
}

/// isStarted()
napi_value mpi_is_started(napi_env env, napi_callback_info) {
  return Napi::Boolean::New(env, binding::mpi::is_started());
}

/// start(): size
napi_value mpi_start(napi_env env, napi_callback_info) {
  binding::mpi::start();
  return Napi::Number::New(env, binding::mpi::size());
}

/// rank()
napi_value mpi_rank(napi_env env, napi_callback_info) {
  return Napi::Number::New(env, binding::mpi::rank());
}

/// begin(toEach, values, count)
napi_value mpi_begin(napi_env env, napi_callback_info info) {
  const Arguments<3> arguments(env, info);
  const bool to_each = arguments.boolean(0);
  const size_t count = arguments.size(2);
  if (count > INT32_MAX) throw InvalidCall{"be given at most 2^31 - 1 values of each member"};
  const size_t members = to_each ? static_cast<size_t>(binding::mpi::size()) : 1;
  const auto values = arguments.array<const double>(1, members * count, "values");
  binding::mpi::begin(to_each ? binding::mpi::kAllToAll : binding::mpi::kAllGather, values.at, count);
  return nullptr;
}

/// wait(milliseconds): whether the exchange has ended
napi_value mpi_wait(napi_env env, napi_callback_info info) {
  return Napi::Boolean::New(env, binding::mpi::wait(Arguments<1>(env, info).number(0)));
}

/// take(values)
napi_value mpi_take(napi_env env, napi_callback_info info) {
  const Arguments<1> arguments(env, info);
  binding::mpi::take(arguments.array<double>(0, binding::mpi::received(), "values").at);
  return nullptr;
}

/// end(code)
napi_value mpi_end(napi_env env, napi_callback_info info) {
  binding::mpi::end(static_cast<int>(Arguments<1>(env, info).number(0)));
  return nullptr;
}
#endif

/// `storage`: what its tensors of Half hold.
template <auto Function>
void export_function(Napi::Object target, const char* name, Storage storage = batchnorm::kFloat32) {
  void* const data = &instance_of(target.Env()).exported[storage];
  napi_value function;
  if (napi_create_function(target.Env(), name, NAPI_AUTO_LENGTH, guarded<Function>, data, &function) !=
      napi_ok)
    throw Napi::Error::New(target.Env());
  target.Set(name, Napi::Value(target.Env(), function));
}

template <typename S>
Napi::Object passes_of(Napi::Env env, Storage storage = batchnorm::kFloat32) {
  Napi::Object passes = Napi::Object::New(env);
  export_function<forward<S, batchnorm::forward_training<S>, Now>>(passes, "forwardTraining", storage);
  export_function<forward<S, batchnorm::forward_inference<S>, Now>>(passes, "forwardInference", storage);
  export_function<moments<S, Now>>(passes, "moments", storage);
  export_function<backward<S, Now>>(passes, "backward", storage);
  export_function<grad_sums<S, Now>>(passes, "gradSums", storage);
  export_function<grad_input<S, Now>>(passes, "gradInput", storage);
  export_function<grad_parameters<S>>(passes, "gradParameters", storage);
  export_function<forward<S, batchnorm::forward_training<S>, Later>>(passes, "forwardTrainingLater", storage);
  export_function<forward<S, batchnorm::forward_inference<S>, Later>>(passes, "forwardInferenceLater",
                                                                      storage);
  export_function<moments<S, Later>>(passes, "momentsLater", storage);
  export_function<backward<S, Later>>(passes, "backwardLater", storage);
  export_function<grad_sums<S, Later>>(passes, "gradSumsLater", storage);
  export_function<grad_input<S, Later>>(passes, "gradInputLater", storage);
  export_function<moments_of_present<S, Now>>(passes, "momentsOfPresent", storage);
  export_function<infer_present<S, Now>>(passes, "inferPresent", storage);
  export_function<grad_sums_of_present<S, Now>>(passes, "gradSumsOfPresent", storage);
  export_function<grad_input_of_present<S, Now>>(passes, "gradInputOfPresent", storage);
  export_function<grad_weights<S, Now>>(passes, "gradWeights", storage);
  export_function<find_missing<S>>(passes, "findMissing", storage);
  export_function<moments_of_present<S, Later>>(passes, "momentsOfPresentLater", storage);
  export_function<infer_present<S, Later>>(passes, "inferPresentLater", storage);
  export_function<grad_sums_of_present<S, Later>>(passes, "gradSumsOfPresentLater", storage);
  export_function<grad_input_of_present<S, Later>>(passes, "gradInputOfPresentLater", storage);
  export_function<grad_weights<S, Later>>(passes, "gradWeightsLater", storage);
  export_function<forward_rows<S, Now>>(passes, "forwardRows", storage);
  export_function<backward_rows<S, Now>>(passes, "backwardRows", storage);
  export_function<forward_rows<S, Later>>(passes, "forwardRowsLater", storage);
  export_function<backward_rows<S, Later>>(passes, "backwardRowsLater", storage);
  export_function<frozen_bytes<Compute<S>>>(passes, "frozenBytes", storage);
  export_function<freeze<Compute<S>>>(passes, "freeze", storage);
  export_function<run_frozen<S, Now>>(passes, "runFrozen", storage);
  export_function<run_frozen<S, Later>>(passes, "runFrozenLater", storage);
  return passes;
}

#if !defined(_WIN32)
Napi::Object mpi_of(Napi::Env env) {
  Napi::Object mpi = Napi::Object::New(env);
  export_function<mpi_load>(mpi, "load");
  export_function<mpi_is_started>(mpi, "isStarted");
  export_function<mpi_start>(mpi, "start");
  export_function<mpi_rank>(mpi, "rank");
  export_function<mpi_begin>(mpi, "begin");
  export_function<mpi_wait>(mpi, "wait");
  export_function<mpi_take>(mpi, "take");
  export_function<mpi_end>(mpi, "end");
  return mpi;
}
#endif

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  binding::stay_loaded();
  env.SetInstanceData(new Instance);
  Napi::Array isas = Napi::Array::New(env);
  for (const batchnorm::KernelTable* table : batchnorm::kernel_tables())
    isas.Set(isas.Length(), Napi::String::New(env, table->name));
  exports.Set("isas", isas);
  exports.Set("isaReason", batchnorm::reason_of_best());
  exports.Set("float32", passes_of<float>(env));
  exports.Set("float64", passes_of<double>(env));
  exports.Set("bfloat16", passes_of<Half>(env, batchnorm::kBfloat16));
  exports.Set("float16", passes_of<Half>(env, batchnorm::kFloat16));
  export_function<convert<true>>(exports, "widen");
  export_function<convert<false>>(exports, "narrow");
  export_function<run_stored<Now>>(exports, "runStored");
  export_function<run_stored<Later>>(exports, "runStoredLater");
  export_function<find_missing_stored>(exports, "findMissingStored");
  export_function<update_running_stats>(exports, "updateRunningStats");
  export_function<release>(exports, "release");
  export_function<is_aligned>(exports, "isAligned");
  export_function<advise_huge_pages>(exports, "adviseHugePages");
  export_function<set_threads>(exports, "setThreads");
  export_function<threads>(exports, "threads");
  export_function<set_machine>(exports, "setMachine");
  export_function<use_isa>(exports, "useIsa");
  export_function<plan>(exports, "plan");
  export_function<on_finished>(exports, "onFinished");
  export_function<take_finished>(exports, "takeFinished");
  export_function<cancel>(exports, "cancel");
#if !defined(_WIN32)
  exports.Set("mpi", mpi_of(env));
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(batchnorm, initialize)
