#include "isa/vec_neon.h"
#include "quant/make_quantisers.h"

namespace localllm {

constinit const Quantisers kNeonQuantisers = make_quantisers<Neon>();

}  // namespace localllm
