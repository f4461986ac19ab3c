// Few columns: one panel of 16 output rows times one tile of up to 8 columns, for every weight type, on any vector
// vocabulary. A weight vector is unpacked once, in registers, and multiplied with every column of the tile.
#pragma once

#include "gemm/codes.h"
#include "gemm/float_step.h"

namespace localllm {

// How far ahead of their use weights are fetched for `columns` columns, and how near. Panels are one stream in memory.
// With little arithmetic the processor's own prefetching keeps up, if the requests come in order and just before they
// are needed; with more, the requests have to bridge the latency of memory; with the most, weights wait in the second
// cache, for the activations fill the first.
template <class V, int columns>
LOCALLLM_INLINE void prefetch_weights(const uint8_t* p) {
    if constexpr (columns == 1)
        V::prefetch(p + 192);
    else if constexpr (columns < 8)
        V::prefetch(p + 4096);
    else
        V::prefetch_far(p + 4096);
}

// Fetches what follows part `index` of `parts` of a unit: evenly, so that the requests never wait for each other.
template <class V, Type type, int parts, int columns>
LOCALLLM_INLINE void prefetch_part(const uint8_t* unit, int index) {
    constexpr size_t lines = (PanelLayout(type).unit_bytes / 64 + parts - 1) / parts;
    const uint8_t* part = unit + index * lines * 64;
    LOCALLLM_UNROLL for (size_t line = 0; line < lines; ++line) prefetch_weights<V, columns>(part + 64 * line);
}

// y[column][row] = panel * tile; y holds `columns` rows of 16 floats.
template <class V, Type type, int columns>
void multiply_quantised(const uint8_t* panel, int k, const QuantTile& x, float* y) {
    constexpr Format f = format(type);
    constexpr PanelLayout at(type);
    constexpr int parts = kPanelRows / V::lanes, unit_chunks = at.unit_cols / kChunk, groups = kChunk / f.group;
    typename V::F sums[parts][1][columns];
    for (auto& part : sums)
        for (auto& sum : part[0]) sum = V::zero();
    const int chunks = k / kChunk;
    for (int first = 0; first < chunks; first += unit_chunks, panel += at.unit_bytes) {
        const int here = chunks - first < unit_chunks ? chunks - first : unit_chunks;
        for (int chunk = 0; chunk < here; ++chunk) {
            prefetch_part<V, type, unit_chunks, columns>(panel, chunk);
            for (int r = 0; r < parts; ++r) {
                typename V::B codes[8];
                load_codes<V, type>(panel + at.codes + static_cast<size_t>(chunk) * 64 * f.bits, r, codes);
                const Scales<V, type> scales(panel, r);
                multiply_chunk<V, codes_of(type), 1, columns, columns>(
                    x, first + chunk, 0, [&](int, int j) { return codes[j]; },
                    [&](int, int g) { return scales.scale(chunk * groups + g); },
                    [&](int, int g) { return scales.min(chunk * groups + g); }, sums[r]);
            }
        }
    }
    for (int c = 0; c < columns; ++c)
        for (int r = 0; r < parts; ++r) V::store(y + c * kPanelRows + r * V::lanes, sums[r][0][c]);
}

// The same for float weights; x is [steps][columns] words.
template <class V, Type type, int columns>
void multiply_float(const uint8_t* panel, int k, const float* x, float* y) {
    using Step = FloatStep<V, type>;
    constexpr int parts = kPanelRows / V::lanes;
    typename V::F sums[parts][columns];
    for (auto& part : sums)
        for (auto& sum : part) sum = V::zero();
    auto weights = [&](int i, int r) LOCALLLM_INLINE_LAMBDA {
        const uint8_t* at = panel + i * Step::bytes;
        if (r == 0) prefetch_weights<V, columns>(at);
        return Step::load(at, r);
    };
    add_steps<V, Step, parts, columns>((k + Step::columns - 1) / Step::columns, x, columns, weights, sums);
    for (int c = 0; c < columns; ++c)
        for (int r = 0; r < parts; ++r) V::store(y + c * kPanelRows + r * V::lanes, sums[r][c]);
}

}  // namespace localllm
