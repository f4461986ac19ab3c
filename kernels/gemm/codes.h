// The codes of a packed panel, and the one place where they are multiplied: a chunk of 32 columns of weights times
// columns of a tile. Every kernel adds up a row's products in the same order, so that its result does not depend on
// the rows beside it.
#pragma once

#include <utility>

#include "gemm/activations.h"
#include "isa/processor.h"
#include "quant/format.h"

namespace localllm {

// Part of a code, from its bit `done` on, where it stands in the code.
template <class V, CodePart part, int done, class Combine>
LOCALLLM_INLINE typename V::B unpack_part(const typename V::B* vectors, Combine combine) {
    const auto mask = V::bset1(static_cast<uint8_t>(((1 << part.count) - 1) << done));
    return combine(V::template shift<part.bit - done>(vectors[part.vector]), mask);
}

// Puts the rest of code `code` of a chunk together, of which `got` holds the low `done` bits.
template <class V, int bits, int code, int done>
LOCALLLM_INLINE typename V::B unpack_rest(const typename V::B* vectors, typename V::B got) {
    if constexpr (done == bits) {
        return got;
    } else {
        constexpr CodePart part = code_part(bits, code, done);
        got = unpack_part<V, part, done>(vectors, [&](auto x, auto mask) { return V::bor_masked(got, x, mask); });
        return unpack_rest<V, bits, code, done + part.count>(vectors, got);
    }
}

template <class V, int bits, int code>
LOCALLLM_INLINE typename V::B unpack(const typename V::B* vectors) {
    constexpr CodePart part = code_part(bits, code, 0);
    const auto got = unpack_part<V, part, 0>(vectors, [](auto x, auto mask) { return V::band(x, mask); });
    return unpack_rest<V, bits, code, part.count>(vectors, got);
}

// Unpacks vector `r` (of 16 / lanes) of one chunk of 32 columns into 8 vectors of 4 columns each.
template <class V, int bits>
LOCALLLM_INLINE void unpack_chunk(const uint8_t* chunk, int r, typename V::B (&out)[8]) {
    typename V::B vectors[bits];
    LOCALLLM_UNROLL for (int i = 0; i < bits; ++i) vectors[i] = V::bload(chunk + 64 * i + 4 * V::lanes * r);
    [&]<int... code>(std::integer_sequence<int, code...>) LOCALLLM_INLINE_LAMBDA {
        if constexpr (bits == 8)
            ((out[code] = vectors[code]), ...);
        else
            ((out[code] = unpack<V, bits, code>(vectors)), ...);
    }(std::make_integer_sequence<int, 8>());
}

template <class V, Scale scale>
inline typename V::F load_scale(const uint8_t* p) {
    if constexpr (scale == Scale::bf16)
        return V::load_bf16(p);
    else
        return V::load_f16(p);
}

// The scales of the groups of one unit of a panel, for the rows of vector `r`.
template <class V, Type type>
struct Scales {
    static constexpr Format f = format(type);
    static constexpr PanelLayout at = PanelLayout(type);
    static constexpr bool super = f.scale == Scale::super;
    const uint8_t* unit;
    int lane;
    typename V::F d, dmin;  // of the super-block

    LOCALLLM_INLINE Scales(const uint8_t* unit, int r) : unit(unit), lane(r * V::lanes) {
        if constexpr (super) d = V::load_f16(unit + lane * 2);
        if constexpr (super && f.has_min) dmin = V::load_f16(unit + at.dmin + lane * 2);
    }
    LOCALLLM_INLINE typename V::F scale(int group) const {
        if constexpr (super)
            return V::mul(d, V::load_i8(unit + at.scale + group * kPanelRows + lane));
        else
            return load_scale<V, f.scale>(unit + (group * kPanelRows + lane) * 2);
    }
    LOCALLLM_INLINE typename V::F min(int group) const {
        if constexpr (!f.has_min)
            return V::zero();
        else if constexpr (super)
            return V::mul(dmin, V::load_u8(unit + at.min + group * kPanelRows + lane));
        else
            return V::load_f16(unit + at.dmin + (group * kPanelRows + lane) * 2);
    }
};

// The codes of vector `r` of one chunk as they are multiplied: unpacked, and looked up where the type has a table.
template <class V, Type type>
LOCALLLM_INLINE void load_codes(const uint8_t* chunk, int r, typename V::B (&out)[8]) {
    unpack_chunk<V, format(type).bits>(chunk, r, out);
    if constexpr (format(type).table) {
        alignas(16) uint8_t values[16];
        for (int i = 0; i < 16; ++i) values[i] = static_cast<uint8_t>(table_of(type)[i] + 128);
        const auto table = V::table(values);
        for (auto& codes : out) codes = V::lookup(table, codes);
    }
}

// What the multiplication needs to know of a type's codes; types that agree in it share their code.
struct Codes {
    int group;     // columns that share a scale
    bool has_min;  // value = scale * code - min
    bool bytes;    // the full range of a byte, stored + 128
    int offset;    // value = scale * (code - offset)
};
constexpr Codes codes_of(Type type) {
    const Format& f = format(type);
    return {f.group, f.has_min, f.bits == 8 || f.table, f.offset};
}

// sums[vector][column] += weights * columns [first, first + columns) of a tile of `stride` columns, for chunk `chunk`
// of the tile. `weights(v, j)` gives word j of 4 columns of vector v; `scale(v, group)` and `min(v, group)` its scales.
template <class V, Codes codes, int vectors, int columns, int stride, class Weights, class ScaleOf, class MinOf>
LOCALLLM_INLINE void multiply_chunk(const QuantTile& x, int chunk, int first, Weights weights, ScaleOf scale, MinOf min,
                                    typename V::F (&sums)[vectors][columns]) {
    constexpr int groups = kChunk / codes.group, words = codes.group / 4;
    constexpr bool seeded = codes.offset != 0 && (!codes.bytes || V::dot8_needs_seed);
    const int8_t* q = x.q + static_cast<size_t>(chunk) * kChunk * stride + 4 * first;
    const float* x_scale = x.scale + static_cast<size_t>(chunk) * stride + first;
    typename V::F part[vectors][columns];
    LOCALLLM_UNROLL for (int g = 0; g < groups; ++g) {
        // Sums over this group's columns are the same for each row, so they stand with the activations.
        const size_t cell = (static_cast<size_t>(chunk) * groups + g) * stride + first;
        typename V::I dot[vectors][columns];
        LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) {
            auto start = V::izero();
            if constexpr (seeded)
                start =
                    V::template ishl<log2_of(codes.offset)>(V::iset1((groups == 1 ? x.seed32 : x.seed16)[cell + c]));
            LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) dot[v][c] = start;
        }
        // Column by column in turns: the sums do not wait for each other.
        LOCALLLM_UNROLL for (int j = 0; j < words; ++j) {
            typename V::B w[vectors];
            LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) w[v] = weights(v, g * words + j);
            LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) {
                const auto a = V::broadcast4(q + ((g * words + j) * stride + c) * 4);
                LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) {
                    if constexpr (codes.bytes)
                        dot[v][c] = V::dot8(dot[v][c], w[v], a);
                    else
                        dot[v][c] = V::dot7(dot[v][c], w[v], a);
                }
            }
        }
        LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) {
            const auto s = scale(v, g);
            LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) {
                const auto value = V::to_float(dot[v][c]);
                if constexpr (groups == 1)
                    sums[v][c] = V::fma(V::mul(value, V::set1(x_scale[c])), s, sums[v][c]);
                else if (g == 0)
                    part[v][c] = V::mul(value, s);
                else
                    sums[v][c] = V::fma(V::fma(value, s, part[v][c]), V::set1(x_scale[c]), sums[v][c]);
            }
        }
        if constexpr (codes.has_min) LOCALLLM_UNROLL for (int v = 0; v < vectors; ++v) {
                const auto m = min(v, g);
                LOCALLLM_UNROLL for (int c = 0; c < columns; ++c) sums[v][c] =
                    V::fnma(m, V::set1((groups == 1 ? x.sum32 : x.sum16)[cell + c]), sums[v][c]);
            }
    }
}

}  // namespace localllm
