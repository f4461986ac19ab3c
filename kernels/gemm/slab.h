// Many columns: a slab of 32 output rows is expanded once to whole bytes and float scales, a block of columns of k at a
// time that stays in the first cache, and multiplied with every tile.
#pragma once

#include "gemm/codes.h"
#include "gemm/panel.h"

namespace localllm {

constexpr int kSlabPanels = 2;
constexpr int kSlabChunks = 16;    // of 32 columns: a multiple of those of a super-block
constexpr int kSlabColumns = 128;  // of float weights
constexpr int kSlabTileWidth = 4;  // least columns of a tile

// One block of a slab, each panel on its own:
//   codes [chunk][8][64 bytes], as they are multiplied; float weights: [step][16] words
//   scale, min float [group][16]
struct Slab {
    alignas(64) uint8_t codes[kSlabPanels][kSlabChunks * 8 * 64];
    alignas(64) float scale[kSlabPanels][kSlabChunks * 2 * kPanelRows];
    alignas(64) float min[kSlabPanels][kSlabChunks * 2 * kPanelRows];

    float* weights(int panel) { return reinterpret_cast<float*>(codes[panel]); }
    const float* weights(int panel) const { return reinterpret_cast<const float*>(codes[panel]); }
};
static_assert(sizeof(Slab::codes[0]) >= kSlabColumns * kPanelRows * sizeof(float));

// Columns of one block.
constexpr int slab_columns(Type type) {
    return is_float(type) ? kSlabColumns : kSlabChunks * kChunk;
}

// Expands columns [first, first + count) of a panel into panel `which` of the slab; `first` is that of a block.
template <class V, Type type>
void expand(const uint8_t* panel, int first, int count, Slab& slab, int which) {
    constexpr PanelLayout at(type);
    constexpr Format f = format(type);
    constexpr int parts = kPanelRows / V::lanes;
    if constexpr (is_float(type)) {
        using Step = FloatStep<V, type>;
        panel += first / Step::columns * Step::bytes;
        float* out = slab.weights(which);
        for (int i = 0; i < count; i += Step::columns, panel += Step::bytes, out += kPanelRows) {
            prefetch_weights<V, kTileColumns>(panel);
            for (int r = 0; r < parts; ++r) Step::expand(out + r * V::lanes, Step::load(panel, r));
        }
    } else {
        constexpr int unit_chunks = at.unit_cols / kChunk, groups = kChunk / f.group;
        for (int chunk = 0; chunk < count / kChunk; ++chunk) {
            const int in_unit = chunk % unit_chunks;
            const uint8_t* unit =
                panel + static_cast<size_t>(first / at.unit_cols + chunk / unit_chunks) * at.unit_bytes;
            prefetch_part<V, type, unit_chunks, kTileColumns>(unit, in_unit);
            for (int r = 0; r < parts; ++r) {
                typename V::B codes[8];
                load_codes<V, type>(unit + at.codes + static_cast<size_t>(in_unit) * 64 * f.bits, r, codes);
                for (int j = 0; j < 8; ++j)
                    V::bstore(slab.codes[which] + (chunk * 8 + j) * 64 + r * 4 * V::lanes, codes[j]);
                const Scales<V, type> scales(unit, r);
                for (int g = 0; g < groups; ++g) {
                    const int cell = (chunk * groups + g) * kPanelRows + r * V::lanes;
                    V::store(slab.scale[which] + cell, scales.scale(in_unit * groups + g));
                    if constexpr (f.has_min) V::store(slab.min[which] + cell, scales.min(in_unit * groups + g));
                }
            }
        }
    }
}

// Calls block(vector, column, sums) for every register block of a slab and a tile of `stride` columns; sums are kept in
// y [panel][column][16] between the blocks of k, from zero when `fresh`.
template <class V, int stride, class Block>
LOCALLLM_INLINE void over_blocks(float* y, bool fresh, Block block) {
    constexpr int vectors = V::slab_vectors, columns = kSlabTileWidth, parts = kPanelRows / V::lanes;
    for (int v0 = 0; v0 < kSlabPanels * parts; v0 += vectors)
        for (int c0 = 0; c0 < stride; c0 += columns) {
            auto cell = [&](int v, int c) {
                return y + ((v0 + v) / parts * stride + c0 + c) * kPanelRows + (v0 + v) % parts * V::lanes;
            };
            typename V::F sums[vectors][columns];
            LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) LOCALLLM_UNROLL for (int c = 0; c < columns; ++c)
                sums[v][c] = fresh ? V::zero() : V::load(cell(v, c));
            block(v0, c0, sums);
            LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) LOCALLLM_UNROLL for (int c = 0; c < columns; ++c)
                V::store(cell(v, c), sums[v][c]);
        }
}

// y += slab * tile over the columns [first, first + count) of k.
template <class V, Codes codes, int stride>
void multiply_slab(const Slab& slab, int first, int count, const QuantTile& x, float* y) {
    constexpr int vectors = V::slab_vectors, parts = kPanelRows / V::lanes, groups = kChunk / codes.group;
    over_blocks<V, stride>(y, first == 0, [&](int v0, int c0, auto& sums) LOCALLLM_INLINE_LAMBDA {
        const uint8_t* weights[vectors];
        const float *scale[vectors], *min[vectors];
        LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) {
            const int panel = (v0 + v) / parts, lane = (v0 + v) % parts * V::lanes;
            weights[v] = slab.codes[panel] + 4 * lane;
            scale[v] = slab.scale[panel] + lane;
            min[v] = slab.min[panel] + lane;
        }
        for (int chunk = 0; chunk < count / kChunk; ++chunk) {
            multiply_chunk<V, codes, vectors, kSlabTileWidth, stride>(
                x, first / kChunk + chunk, c0,
                [&](int v, int j) { return V::bload(weights[v] + (chunk * 8 + j) * 64); },
                [&](int v, int g) { return V::load(scale[v] + (chunk * groups + g) * kPanelRows); },
                [&](int v, int g) { return V::load(min[v] + (chunk * groups + g) * kPanelRows); }, sums);
        }
    });
}

// The same for float weights; x is [steps][stride] words.
template <class V, class Step, int stride>
void multiply_slab_float(const Slab& slab, int first, int count, const float* x, float* y) {
    constexpr int vectors = V::slab_vectors, parts = kPanelRows / V::lanes;
    over_blocks<V, stride>(y, first == 0, [&](int v0, int c0, auto& sums) LOCALLLM_INLINE_LAMBDA {
        const float* weights[vectors];
        LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) weights[v] =
            slab.weights((v0 + v) / parts) + (v0 + v) % parts * V::lanes;
        add_steps<V, Step, vectors, kSlabTileWidth>(
            (count + Step::columns - 1) / Step::columns, x + static_cast<size_t>(first / Step::columns) * stride + c0,
            stride,
            [&](int i, int v) LOCALLLM_INLINE_LAMBDA { return Step::load_expanded(weights[v] + i * kPanelRows); },
            sums);
    });
}

}  // namespace localllm
