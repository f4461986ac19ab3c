#include "isa/instantiate.h"
#include "isa/vec_scalar.h"

namespace localllm {

constinit const Kernels kScalarKernels = make_kernels<Scalar>("scalar");

}  // namespace localllm
