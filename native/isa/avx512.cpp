#include "../simd/avx512.h"

#include "../kernels/passes.h"

BATCHNORM_KERNEL_TABLE(avx512)
