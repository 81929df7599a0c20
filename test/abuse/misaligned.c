// An addon whose buffers begin where they should not, as those over a mapped file may.

#include <node_api.h>
#include <stdint.h>
#include <stdlib.h>

static void release(napi_env env, void* data, void* memory) {
  (void)env, (void)data;
  free(memory);
}

/// external(bytes, shift): an ArrayBuffer that begins `shift` bytes behind a line of 64, zeros around it too
static napi_value external(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  napi_value result = NULL;
  uint32_t bytes = 0;
  uint32_t shift = 0;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_uint32(env, arguments[0], &bytes);
  napi_get_value_uint32(env, arguments[1], &shift);
  char* const memory = calloc((size_t)bytes + 192, 1);
  if (memory == NULL) return NULL;
  char* const line = memory + (64 - (uintptr_t)memory % 64) % 64;
  if (napi_create_external_arraybuffer(env, line + shift, bytes, release, memory, &result) != napi_ok)
    free(memory);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "external", NAPI_AUTO_LENGTH, external, NULL, &function);
  return function;
}
