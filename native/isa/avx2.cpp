#include "../simd/avx2.h"

#include "../kernels/passes.h"
#include "../simd/words_avx2.h"

BATCHNORM_KERNEL_TABLE(avx2)
