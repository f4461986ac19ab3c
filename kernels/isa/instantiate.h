// Builds the kernel table of one vector vocabulary. Included once by each instruction set's translation unit.
#pragma once

#include <utility>

#include "attention/attend.h"
#include "attention/attend_both_ways.h"
#include "attention/store.h"
#include "gemm/panel.h"
#include "gemm/quantise.h"
#include "gemm/slab.h"
#include "isa/elementwise.h"
#include "isa/kernels.h"

namespace localllm {

template <class V, Type type, int columns>
constexpr void fill_width(Kernels& k, int slot) {
    if constexpr (is_float(type))
        k.floating[static_cast<int>(type)][slot] = multiply_float<V, type, columns>;
    else
        k.quantised[static_cast<int>(type)][slot] = multiply_quantised<V, type, columns>;
}

template <class V, Type type>
constexpr void fill_type(Kernels& k) {
    constexpr int index = static_cast<int>(type);
    fill_width<V, type, 1>(k, 0);
    fill_width<V, type, 2>(k, 1);
    fill_width<V, type, 4>(k, 2);
    if constexpr (V::columns >= 8) fill_width<V, type, 8>(k, 3);
    k.expand[index] = expand<V, type>;
    if constexpr (is_float(type)) {
        k.slab_float[index][0] = multiply_slab_float<V, FloatStep<V, type>, 4>;
        if constexpr (V::columns >= 8) k.slab_float[index][1] = multiply_slab_float<V, FloatStep<V, type>, 8>;
    } else {
        k.slab[index][0] = multiply_slab<V, codes_of(type), 4>;
        if constexpr (V::columns >= 8) k.slab[index][1] = multiply_slab<V, codes_of(type), 8>;
    }
}

template <class V, size_t... types>
constexpr void fill_types(Kernels& k, std::index_sequence<types...>) {
    (fill_type<V, static_cast<Type>(types)>(k), ...);
}

template <class V, CacheType type>
constexpr void fill_attention(Kernels& k) {
    constexpr int index = static_cast<int>(type);
    k.attend[index][0] = attend<V, type, 1>;
    k.attend[index][1] = attend<V, type, 2>;
    k.attend[index][2] = attend<V, type, 4>;
    if constexpr (V::columns >= 8) k.attend[index][3] = attend<V, type, 8>;
    k.store_token[index] = store_token<V, type>;
}

template <class V>
constexpr Kernels make_kernels(const char* name) {
    Kernels k{};
    k.name = name;
    k.columns = V::columns;
    fill_types<V>(k, std::make_index_sequence<static_cast<size_t>(Type::count)>());
    fill_attention<V, CacheType::f32>(k);
    fill_attention<V, CacheType::f16>(k);
    fill_attention<V, CacheType::int8>(k);
    k.quantise_column = quantise_column<V>;
    k.combine = combine<V>;
    k.attend_both_ways = attend_both_ways<V>;
    k.rms_norm = rms_norm<V>;
    k.layer_norm = layer_norm<V>;
    k.act = act<V>;
    k.gated_act = gated_act<V>;
    k.add_scaled = add_scaled<V>;
    k.softcap = softcap<V>;
    k.probes = make_probes<V>();
    return k;
}

}  // namespace localllm
