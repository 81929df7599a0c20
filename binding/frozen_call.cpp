// In a file of its own, which is compiled for speed: in a small call the binding is most of it.
#include "frozen_call.h"

#include "arguments.h"

namespace binding {

template <typename S, typename When>
napi_value run_frozen(napi_env env, napi_callback_info info) {
  const Arguments<6 + When::kArguments> arguments(env, info);
  const auto memory = arguments.memory(2);
  const Shape shape = arguments.shape(0, batchnorm::frozen_channels<Compute<S>>(memory.at, memory.length), 1);
  const auto x = arguments.template array<const S>(3, shape.size(), "x.data");
  const auto y = arguments.template array<S>(4, shape.size(), kOut);
  const auto residual = arguments.template optional_array<const S>(5, shape.size(), "residual.data");
  is_in_place<S>(y, x, kOverX);
  check_apart(y, residual, kOffResidual);
  const Execution execution = When::execution(arguments);
  if constexpr (std::is_same_v<When, Now>)
    batchnorm::run_frozen<S>(execution, shape, memory.at, x.at, residual.at, y.at);
  else
    When::run(arguments,
              [=] { batchnorm::run_frozen<S>(execution, shape, memory.at, x.at, residual.at, y.at); });
  return nullptr;
}

#define BATCHNORM_INSTANTIATE(S)                                        \
  template napi_value run_frozen<S, Now>(napi_env, napi_callback_info); \
  template napi_value run_frozen<S, Later>(napi_env, napi_callback_info);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(batchnorm::Half)

}  // namespace binding
