// Rounds activations: to bytes for the quantised linear kernels, to bfloat16 for those that multiply it.
#pragma once

#include <algorithm>
#include <cstring>

#include "gemm/activations.h"
#include "isa/math.h"

namespace localllm {

// Quantises column `c` of the tile from `x`; the tile may hold other columns already.
template <class V>
void quantise_column(const float* x, QuantTile& tile, int c) {
    const int columns = tile.columns;
    alignas(64) int8_t q[kChunk];
    for (int chunk = 0; chunk < tile.k / kChunk; ++chunk, x += kChunk) {
        const float top = peak<V>(x, kChunk);
        const float scale = top / 127.0f;
        const auto inverse = V::set1(inverse_scale(top));
        int sum[2] = {0, 0};
        for (int i = 0; i < kChunk; i += V::lanes) {
            const auto rounded = top == top ? V::to_int(V::mul(V::load(x + i), inverse)) : V::izero();
            V::store_i8(q + i, rounded);
            sum[i / 16] += V::reduce_add(rounded);
        }
        for (int j = 0; j < kChunk / 4; ++j)
            std::memcpy(tile.q + (static_cast<size_t>(chunk * (kChunk / 4) + j) * columns + c) * 4, q + 4 * j, 4);
        const size_t cell = static_cast<size_t>(chunk) * columns + c;
        tile.scale[cell] = scale;
        tile.seed32[cell] = -(sum[0] + sum[1]);
        tile.sum32[cell] = scale * static_cast<float>(sum[0] + sum[1]);
        for (int half = 0; half < 2; ++half) {
            const size_t at = (static_cast<size_t>(chunk) * 2 + half) * columns + c;
            tile.seed16[at] = -sum[half];
            tile.sum16[at] = scale * static_cast<float>(sum[half]);
        }
    }
}

// Rounds column `c` of the tile's pairs from `x`.
template <class V>
void pair_column(const float* x, FloatTile& tile, int c) {
    constexpr int together = 2 * V::lanes;
    float* out = tile.pairs + c;
    alignas(64) float padded[together] = {};
    alignas(64) float words[V::lanes];
    for (int i = 0; i < tile.k; i += together) {
        const float* from = x + i;
        if (tile.k - i < together) {
            std::copy(from, x + tile.k, padded);
            from = padded;
        }
        V::bstore(words, V::to_bf16(V::load(from), V::load(from + V::lanes)));
        for (int j = 0; j < V::lanes && i + 2 * j < tile.k; ++j, out += tile.columns) std::memcpy(out, words + j, 4);
    }
}

}  // namespace localllm
