#include "isa/vec_avx512.h"
#include "quant/make_quantisers.h"

namespace localllm {

constinit const Quantisers kAvx512Quantisers = make_quantisers<Avx512>();

}  // namespace localllm
