// Builds the kernel table of one vector vocabulary. Included once by each instruction set's translation unit.
#pragma once

#include "attention/attend.h"
#include "gemm/panel.h"
#include "isa/elementwise.h"
#include "isa/kernels.h"

namespace localllm {

template <class V, int columns>
constexpr void fill_width(Kernels& k, int slot) {
#define LOCALLLM_QUANTISED(T) k.quantised[static_cast<int>(Type::T)][slot] = multiply_quantised<V, Type::T, columns>
    LOCALLLM_QUANTISED(Q8_0);
    LOCALLLM_QUANTISED(Q4_0);
    LOCALLLM_QUANTISED(Q4_1);
    LOCALLLM_QUANTISED(Q5_0);
    LOCALLLM_QUANTISED(Q5_1);
    LOCALLLM_QUANTISED(Q2_K);
    LOCALLLM_QUANTISED(Q3_K);
    LOCALLLM_QUANTISED(Q4_K);
    LOCALLLM_QUANTISED(Q5_K);
    LOCALLLM_QUANTISED(Q6_K);
    LOCALLLM_QUANTISED(IQ4_NL);
    LOCALLLM_QUANTISED(IQ4_XS);
    LOCALLLM_QUANTISED(MXFP4);
#undef LOCALLLM_QUANTISED
    k.floating[0][slot] = multiply_float<V, Type::F32, columns>;
    k.floating[1][slot] = multiply_float<V, Type::F16, columns>;
    k.floating[2][slot] = multiply_float<V, Type::BF16, columns>;
    k.attend[0][slot] = attend<V, CacheType::f16, columns>;
    k.attend[1][slot] = attend<V, CacheType::int8, columns>;
}

template <class V>
constexpr Kernels make_kernels(const char* name) {
    Kernels k{};
    k.name = name;
    k.columns = V::columns;
    fill_width<V, 1>(k, 0);
    fill_width<V, 2>(k, 1);
    fill_width<V, 4>(k, 2);
    if constexpr (V::columns >= 8) fill_width<V, 8>(k, 3);
    k.quantise_column = quantise_column<V>;
    k.combine = combine<V>;
    k.store_token[0] = store_token<V, CacheType::f16>;
    k.store_token[1] = store_token<V, CacheType::int8>;
    k.rms_norm = rms_norm<V>;
    k.gated_act = gated_act<V>;
    k.add_scaled = add_scaled<V>;
    k.softcap = softcap<V>;
    return k;
}

}  // namespace localllm
