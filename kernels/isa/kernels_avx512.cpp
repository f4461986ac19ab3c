#include "isa/instantiate.h"
#include "isa/vec_avx512.h"

namespace localllm {

constinit const Kernels kAvx512Kernels = make_kernels<Avx512>("avx512");

}  // namespace localllm
