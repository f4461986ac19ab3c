#include "isa/instantiate.h"
#include "isa/vec_avx2.h"

namespace localllm {

constinit const Kernels kAvxVnniKernels = make_kernels<AvxVnni>("avxvnni");

}  // namespace localllm
