#include "../simd/avx2.h"

#include "../kernels/passes.h"

BATCHNORM_KERNEL_TABLE(avx2)
