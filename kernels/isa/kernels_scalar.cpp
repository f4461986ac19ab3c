#include "isa/vec_scalar.h"

#include "isa/instantiate.h"

namespace localllm {

constinit const Kernels kScalarKernels = make_kernels<Scalar>("scalar");

}  // namespace localllm
