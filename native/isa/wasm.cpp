#include "../simd/wasm.h"

#include "../kernels/passes.h"

BATCHNORM_KERNEL_TABLE(wasm)
