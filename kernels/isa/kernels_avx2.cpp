#include "isa/vec_avx2.h"

#include "isa/instantiate.h"

namespace localllm {

constinit const Kernels kAvx2Kernels = make_kernels<Avx2>("avx2");

}  // namespace localllm
