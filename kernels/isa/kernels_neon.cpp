#include "isa/instantiate.h"
#include "isa/vec_neon.h"

namespace localllm {

constinit const Kernels kNeonKernels = make_kernels<Neon>("neon");

}  // namespace localllm
