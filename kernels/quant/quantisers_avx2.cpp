#include "isa/vec_avx2.h"
#include "quant/make_quantisers.h"

namespace localllm {

constinit const Quantisers kAvx2Quantisers = make_quantisers<Avx2>();

}  // namespace localllm
