#include "../simd/generic.h"

#include "../kernels/passes.h"

BATCHNORM_KERNEL_TABLE(generic)
