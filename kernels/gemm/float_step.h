// How float weights are multiplied: one step takes a vector of rows, and from every column of a tile one word of 4
// bytes.
#pragma once

#include "gemm/activations.h"
#include "isa/processor.h"
#include "quant/format.h"

namespace localllm {

// Weights and activations as float32.
template <class V, Type type>
struct FloatStep {
    using Weights = typename V::F;
    static constexpr int columns = 1;  // of k, in one step
    static constexpr size_t bytes = kPanelRows * format(type).bytes;

    // The rows of vector `r` of the step that begins at `panel`.
    static LOCALLLM_INLINE Weights load(const uint8_t* panel, int r) {
        const uint8_t* p = panel + r * V::lanes * format(type).bytes;
        if constexpr (type == Type::F32)
            return V::load(reinterpret_cast<const float*>(p));
        else if constexpr (type == Type::F16)
            return V::load_f16(p);
        else
            return V::load_bf16(p);
    }
    static LOCALLLM_INLINE Weights load_expanded(const float* p) { return V::load(p); }
    static LOCALLLM_INLINE void expand(float* p, Weights w) { V::store(p, w); }
    static LOCALLLM_INLINE typename V::F add(Weights w, const float* x, typename V::F sum) {
        return V::fma(w, V::set1(*x), sum);
    }
};

// bfloat16 in pairs of columns, where the processor multiplies them. A panel ends with zeros after an odd last column.
template <class V>
    requires V::bf16_products
struct FloatStep<V, Type::BF16> {
    static_assert(V::lanes == kPanelRows);  // one vector holds all rows
    using Weights = typename V::B;
    static constexpr int columns = 2;
    static constexpr size_t bytes = 2 * kPanelRows * sizeof(uint16_t);

    static LOCALLLM_INLINE Weights load(const uint8_t* panel, int) { return V::interleave16(V::bload(panel)); }
    static LOCALLLM_INLINE Weights load_expanded(const float* p) { return V::bload(p); }
    static LOCALLLM_INLINE void expand(float* p, Weights w) { V::bstore(p, w); }
    static LOCALLLM_INLINE typename V::F add(Weights w, const float* x, typename V::F sum) {
        return V::dot_bf16(sum, w, V::broadcast4(x));
    }
};

// Steps that are summed apart: the sums of a whole row wait for each other once in so many. The same for every kernel,
// so that a row's result does not depend on the rows beside it.
constexpr int kRunSteps = 8;

// sums[vector][column] += `steps` steps; `weights(step, vector)` loads, x is [steps][stride] words.
template <class V, class Step, int vectors, int columns, class Weights>
LOCALLLM_INLINE void add_steps(int steps, const float* x, int stride, Weights weights,
                               typename V::F (&sums)[vectors][columns]) {
    auto run = [&](int first, int count) LOCALLLM_INLINE_LAMBDA {
        typename V::F part[vectors][columns];
        LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) part[v][c] =
            V::zero();
        LOCALLLM_UNROLL for (int i = 0; i < count; ++i) {
            const float* word = x + static_cast<size_t>(first + i) * stride;
            typename Step::Weights w[vectors];
            LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) w[v] = weights(first + i, v);
            LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v)
                part[v][c] = Step::add(w[v], word + c, part[v][c]);
        }
        LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) sums[v][c] =
            V::add(sums[v][c], part[v][c]);
    };
    int first = 0;
    for (; first + kRunSteps <= steps; first += kRunSteps) run(first, kRunSteps);
    if (first < steps) run(first, steps - first);
}

}  // namespace localllm
