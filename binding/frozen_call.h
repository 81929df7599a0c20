// The call that is made the most and computes the least: a frozen layer's.
#pragma once

#include <node_api.h>

namespace binding {

/// runFrozen(outer, inner, memory, x, y, residual?), at once or later (When).
template <typename S, typename When>
napi_value run_frozen(napi_env env, napi_callback_info info);

}  // namespace binding
