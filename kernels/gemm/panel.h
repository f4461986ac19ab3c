// The linear kernel: one panel of 16 output rows times one tile of up to 8 columns, for every weight type, on any
// vector vocabulary. A weight vector is unpacked once and multiplied with every column of the tile.
#pragma once

#include <cstring>

#include "gemm/activations.h"
#include "isa/math.h"
#include "quant/format.h"

namespace localllm {

// Unpacks vector `r` (of 16 / lanes) of one chunk of 32 columns into 8 vectors of 4 columns each.
template <class V, Type type>
inline void unpack_chunk(const uint8_t* chunk, int r, typename V::B (&out)[8]) {
    constexpr int bits = format(type).bits;
    const uint8_t* p = chunk + 4 * V::lanes * r;
    if constexpr (bits == 8) {
        for (int j = 0; j < 8; ++j) out[j] = V::bload(p + 64 * j);
        return;
    } else {
        constexpr bool has4 = bits & 4, has2 = bits & 2, has1 = bits & 1;
        if constexpr (has4) {
            constexpr int below = bits & 3;
            const auto mask = V::bset1(static_cast<uint8_t>(15 << below));
            for (int j = 0; j < 4; ++j) {
                const auto x = V::bload(p + 64 * j);
                out[2 * j] = V::band(V::template shift<-below>(x), mask);
                out[2 * j + 1] = V::band(V::template shift<4 - below>(x), mask);
            }
            p += 4 * 64;
        }
        if constexpr (has2) {
            constexpr int below = bits & 1;
            const auto mask = V::bset1(static_cast<uint8_t>(3 << below));
            for (int j = 0; j < 2; ++j) {
                const auto x = V::bload(p + 64 * j);
                const typename V::B part[4] = {
                    V::band(V::template shift<-below>(x), mask), V::band(V::template shift<2 - below>(x), mask),
                    V::band(V::template shift<4 - below>(x), mask), V::band(V::template shift<6 - below>(x), mask)};
                for (int f = 0; f < 4; ++f) {
                    if constexpr (has4)
                        out[4 * j + f] = V::bor(out[4 * j + f], part[f]);
                    else
                        out[4 * j + f] = part[f];
                }
            }
            p += 2 * 64;
        }
        if constexpr (has1) {
            const auto mask = V::bset1(1);
            const auto x = V::bload(p);
            const typename V::B part[8] = {V::band(x, mask),
                                           V::band(V::template shift<1>(x), mask),
                                           V::band(V::template shift<2>(x), mask),
                                           V::band(V::template shift<3>(x), mask),
                                           V::band(V::template shift<4>(x), mask),
                                           V::band(V::template shift<5>(x), mask),
                                           V::band(V::template shift<6>(x), mask),
                                           V::band(V::template shift<7>(x), mask)};
            for (int f = 0; f < 8; ++f) out[f] = V::bor(out[f], part[f]);
        }
    }
}

constexpr int log2_of(int n) {
    return n <= 1 ? 0 : 1 + log2_of(n / 2);
}

template <class V, Scale scale>
inline typename V::F load_scale(const uint8_t* p) {
    if constexpr (scale == Scale::bf16)
        return V::load_bf16(p);
    else
        return V::load_f16(p);
}

// Panels are one stream in memory; far enough ahead for the latency of memory, near enough to stay in the first cache.
constexpr size_t kPrefetchAhead = 4096;

// y[column][row] = panel * tile; y holds `columns` rows of 16 floats.
template <class V, Type type, int columns>
void multiply_quantised(const uint8_t* panel, int k, const QuantTile& x, float* y) {
    constexpr Format f = format(type);
    constexpr PanelLayout at(type);
    constexpr int parts = kPanelRows / V::lanes;
    constexpr bool super = f.scale == Scale::super;
    constexpr bool byte_codes = f.bits == 8 || f.table;  // stored + 128: the full range of a byte
    constexpr bool seeded = f.offset != 0 && (!byte_codes || V::dot8_needs_seed);
    constexpr int per_group = f.group / 4;    // vectors of 4 columns that share a scale
    constexpr int groups = kChunk / f.group;  // of one chunk
    constexpr int unit_chunks = at.unit_cols / kChunk;
    using F = typename V::F;
    using I = typename V::I;
    using B = typename V::B;

    alignas(16) uint8_t table[16];
    if constexpr (f.table)
        for (int i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(table_of(type)[i] + 128);

    F acc[parts][columns];
    for (int r = 0; r < parts; ++r)
        for (int c = 0; c < columns; ++c) acc[r][c] = V::zero();

    const int chunks = k / kChunk;
    const int8_t* q = x.q;
    for (int first = 0; first < chunks; first += unit_chunks, panel += at.unit_bytes) {
        for (size_t ahead = 0; ahead < at.unit_bytes; ahead += 64) V::prefetch(panel + kPrefetchAhead + ahead);
        F d[parts], dmin[parts];
        if constexpr (super)
            for (int r = 0; r < parts; ++r) {
                d[r] = V::load_f16(panel + r * V::lanes * 2);
                if constexpr (f.has_min) dmin[r] = V::load_f16(panel + at.dmin + r * V::lanes * 2);
            }
        const int here = chunks - first < unit_chunks ? chunks - first : unit_chunks;
        for (int chunk = 0; chunk < here; ++chunk, q += kChunk * columns) {
            const size_t cell = static_cast<size_t>(first + chunk) * columns;
            for (int r = 0; r < parts; ++r) {
                const int lane = r * V::lanes;
                B w[8];
                unpack_chunk<V, type>(panel + at.codes + static_cast<size_t>(chunk) * 64 * f.bits, r, w);
                if constexpr (f.table) {
                    const B values = V::table(table);
                    for (int j = 0; j < 8; ++j) w[j] = V::lookup(values, w[j]);
                }
                for (int g = 0; g < groups; ++g) {
                    const int group = chunk * groups + g;
                    F scale, min = V::zero();
                    if constexpr (super) {
                        scale = V::mul(d[r], V::load_i8(panel + at.scale + group * kPanelRows + lane));
                        if constexpr (f.has_min)
                            min = V::mul(dmin[r], V::load_u8(panel + at.min + group * kPanelRows + lane));
                    } else {
                        const int slot = (group * kPanelRows + lane) * 2;
                        scale = load_scale<V, f.scale>(panel + slot);
                        if constexpr (f.has_min) min = V::load_f16(panel + at.dmin + slot);
                    }
                    // Sums over this group's columns: the same for each row, so they stand with the activations.
                    const size_t sums = groups == 1 ? cell : 2 * cell + static_cast<size_t>(g) * columns;
                    for (int c = 0; c < columns; ++c) {
                        I dot = V::izero();
                        if constexpr (seeded)
                            dot = V::template ishl<log2_of(f.offset)>(
                                V::iset1((groups == 1 ? x.seed32 : x.seed16)[sums + c]));
                        for (int j = 0; j < per_group; ++j) {
                            const B a = V::broadcast4(q + ((g * per_group + j) * columns + c) * 4);
                            if constexpr (byte_codes)
                                dot = V::dot8(dot, w[g * per_group + j], a);
                            else
                                dot = V::dot7(dot, w[g * per_group + j], a);
                        }
                        acc[r][c] = V::fma(V::mul(V::to_float(dot), V::set1(x.scale[cell + c])), scale, acc[r][c]);
                        if constexpr (f.has_min)
                            acc[r][c] = V::fnma(min, V::set1((groups == 1 ? x.sum32 : x.sum16)[sums + c]), acc[r][c]);
                    }
                }
            }
        }
    }
    for (int c = 0; c < columns; ++c)
        for (int r = 0; r < parts; ++r) V::store(y + c * kPanelRows + r * V::lanes, acc[r][c]);
}

// The same for float weights; x is float [k][columns]. Each sum runs in the order of the columns whatever the tile's
// width, so that a row's result does not depend on the rows beside it.
template <class V, Type type, int columns>
void multiply_float(const uint8_t* panel, int k, const float* x, float* y) {
    constexpr int parts = kPanelRows / V::lanes;
    constexpr size_t element = format(type).bytes, row_bytes = kPanelRows * element;
    typename V::F acc[parts][columns];
    for (auto& part : acc)
        for (auto& sum : part) sum = V::zero();
    for (int i = 0; i < k; ++i, panel += row_bytes, x += columns) {
        V::prefetch(panel + kPrefetchAhead);
        for (int r = 0; r < parts; ++r) {
            const uint8_t* p = panel + r * V::lanes * element;
            typename V::F w;
            if constexpr (type == Type::F32)
                w = V::load(reinterpret_cast<const float*>(p));
            else if constexpr (type == Type::F16)
                w = V::load_f16(p);
            else
                w = V::load_bf16(p);
            for (int c = 0; c < columns; ++c) acc[r][c] = V::fma(w, V::set1(x[c]), acc[r][c]);
        }
    }
    for (int c = 0; c < columns; ++c)
        for (int r = 0; r < parts; ++r) V::store(y + c * kPanelRows + r * V::lanes, acc[r][c]);
}

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

}  // namespace localllm
