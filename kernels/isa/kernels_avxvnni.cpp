#include "isa/vec_avx2.h"

#include "isa/instantiate.h"

namespace localllm {

constinit const Kernels kAvxVnniKernels = make_kernels<AvxVnni>("avxvnni");

}  // namespace localllm
