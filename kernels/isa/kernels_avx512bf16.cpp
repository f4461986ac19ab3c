// AVX-512 as it is, but for weights of bfloat16: those are multiplied by activations rounded to bfloat16, two columns
// at a time.
#include <bit>

#include "isa/instantiate.h"
#include "isa/vec_avx512.h"

namespace localllm {

namespace {

struct Avx512Bf16 : Avx512 {
    static constexpr bool bf16_products = true;

    // 16 values of one column, then 16 of the next: to pairs of both.
    static B interleave16(B x) {
        const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        return _mm512_permutexvar_epi16(pairs, x);
    }
    static B to_bf16(F low, F high) { return std::bit_cast<B>(_mm512_cvtne2ps_pbh(high, low)); }
    static F dot_bf16(F sum, B w, B x) {
        return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(w), std::bit_cast<__m512bh>(x));
    }
};

}  // namespace

void multiply_bf16(Kernels& kernels) {
    fill_type<Avx512Bf16, Type::BF16>(kernels);
    kernels.pair_column = pair_column<Avx512Bf16>;
}

}  // namespace localllm
