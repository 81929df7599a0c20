#include "../simd/avx512.h"

#include "../kernels/passes.h"
#include "../simd/words_avx512.h"

BATCHNORM_KERNEL_TABLE(avx512)
