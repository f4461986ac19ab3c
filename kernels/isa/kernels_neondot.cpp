#define LOCALLLM_DOT_PRODUCT
#include "isa/instantiate.h"
#include "isa/vec_neon.h"

namespace localllm {

constinit const Kernels kNeonDotKernels = make_kernels<NeonDot>("neondot");

}  // namespace localllm
