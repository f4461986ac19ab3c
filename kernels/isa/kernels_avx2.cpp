#include "isa/instantiate.h"
#include "isa/vec_avx2.h"

namespace localllm {

constinit const Kernels kAvx2Kernels = make_kernels<Avx2>("avx2");

}  // namespace localllm
