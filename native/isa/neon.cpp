#include "../simd/neon.h"

#include "../kernels/passes.h"

BATCHNORM_KERNEL_TABLE(neon)
