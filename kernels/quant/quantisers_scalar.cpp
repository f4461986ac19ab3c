#include "isa/vec_scalar.h"
#include "quant/make_quantisers.h"

namespace localllm {

constinit const Quantisers kScalarQuantisers = make_quantisers<Scalar>();

}  // namespace localllm
