// Quantisers of the types whose codes are looked up in a table: IQ4_NL, IQ4_XS and MXFP4.
#pragma once

#include "quant/fit.h"
#include "quant/small_blocks.h"

namespace localllm {

// The place in IQ4's table of the level nearest to x: how many of the middles between levels are not above it.
template <class V>
typename V::F level_code(typename V::F x) {
    auto code = V::zero();
    for (int i = 1; i < 16; ++i) {
        const float middle = 0.5f * static_cast<float>(kTableIQ4[i - 1] + kTableIQ4[i]);
        code = V::select(V::less(x, V::set1(middle)), code, V::set1(static_cast<float>(i)));
    }
    return code;
}

// The level itself.
template <class V>
typename V::F nearest_level(typename V::F x) {
    auto level = V::set1(kTableIQ4[0]);
    for (int i = 1; i < 16; ++i) {
        const float middle = 0.5f * static_cast<float>(kTableIQ4[i - 1] + kTableIQ4[i]);
        level = V::select(V::less(x, V::set1(middle)), level, V::set1(kTableIQ4[i]));
    }
    return level;
}

// As fit_scale for the levels of the table: the value of the largest magnitude takes the lowest level, or about that.
template <class V>
typename V::F fit_level_scale(const float (*x)[V::lanes], const float (*w)[V::lanes]) {
    constexpr int tries = 7;
    const auto top = extreme<V>(x, 32);
    const auto nothing = V::less(V::abs(top), V::set1(kNothing));
    const auto peak = V::select(nothing, V::set1(1.0f), top);
    auto products = [&](typename V::F inverse) {
        Products<V> sums;
        for (int i = 0; i < 32; ++i) {
            const auto v = V::load(x[i]), level = nearest_level<V>(V::mul(inverse, v)),
                       w_level = V::mul(V::load(w[i]), level);
            sums.xq = V::add(sums.xq, V::mul(w_level, v));
            sums.qq = V::add(sums.qq, V::mul(w_level, level));
        }
        return sums;
    };
    const Products<V> first = products(V::div(V::set1(1.0f), V::div(peak, V::set1(-kTableIQ4[0]))));
    auto scale = first.ratio(), best = V::mul(scale, first.xq);
    // The first try once more, but with its inverse rounded once and not twice, is among these.
    for (int step = -tries; step <= tries; ++step) {
        const Products<V> sums = products(V::div(V::set1(static_cast<float>(step + kTableIQ4[0])), peak));
        const auto better = sums.better_than(best), ratio = sums.ratio();
        scale = V::select(better, ratio, scale);
        best = V::select(better, V::mul(ratio, sums.xq), best);
    }
    return V::select(nothing, V::zero(), scale);
}

// Weights of a block of n columns, n its size.
template <class V>
void weigh_levels(Strip<V>& s, int n) {
    if (s.importance) {
        auto sum = V::zero();
        for (int i = 0; i < n; ++i) sum = V::add(sum, V::mul(s.at(i), s.at(i)));
        weigh_by_importance<V>(s, V::mul(sum, V::set1(2.0f / static_cast<float>(n))), 0, n);
    } else {
        for (int i = 0; i < n; ++i) V::store(s.weight[i], V::mul(s.at(i), s.at(i)));
    }
}

// Codes of columns [first, first + 32), rounded by `inverse`; `scale` is what the format multiplies levels with.
template <class V>
void put_levels(Strip<V>& s, int first, typename V::F inverse, typename V::F scale, int at) {
    alignas(64) uint8_t code[32][V::lanes];
    for (int i = 0; i < 32; ++i) {
        const auto scaled = V::mul(inverse, s.at(first + i));
        s.to_bytes(level_code<V>(scaled), code[i]);
        s.stored(first + i, V::mul(scale, nearest_level<V>(scaled)));
    }
    s.put_bits(code, 16, 0, 15, 0, s.byte + at);
    s.put_bits(code + 16, 16, 0, 15, 4, s.byte + at);
}

// d * level[q]
template <class V>
void quantise_iq4_nl(Strip<V>& s) {
    weigh_levels<V>(s, 32);
    const auto scale = fit_level_scale<V>(s.x, s.weight);
    put_levels<V>(s, 0, inverse_or_zero<V>(scale), s.put_half(0, scale), 2);
}

// d * (scale - 32) * level[q], groups of 32
template <class V>
void quantise_iq4_xs(Strip<V>& s) {
    alignas(64) float scales[8][V::lanes];
    weigh_levels<V>(s, kSuper);
    for (int g = 0; g < 8; ++g) V::store(scales[g], fit_level_scale<V>(s.x + 32 * g, s.weight + 32 * g));
    const auto d = V::mul(extreme<V>(scales, 8), V::set1(-1.0f / 32)), inverse = inverse_or_zero<V>(d);
    const auto stored = s.put_half(0, d);
    for (int g = 0; g < 8; ++g) {
        alignas(64) uint8_t code[1][V::lanes];
        const auto q = nearest<V>(V::mul(inverse, V::load(scales[g])), -32, 31);
        s.to_bytes(V::add(q, V::set1(32)), code[0]);
        s.put_bits(code, 1, 4, 3, 2 * (g % 4), s.byte + 2 + g / 4);
        s.put_bits(code, 1, 0, 15, 4 * (g % 2), s.byte + 4 + g / 2);
        put_levels<V>(s, 32 * g, inverse_or_zero<V>(V::mul(d, q)), V::mul(stored, q), 8 + 16 * g);
    }
}

// 2^(e - 127) * E2M1 value (OCP microscaling formats 1.0): the largest magnitude has the largest exponent, 2.
template <class V>
void quantise_mxfp4(Strip<V>& s) {
    alignas(64) float most[V::lanes], half_scale[V::lanes];
    V::store(most, V::abs(extreme<V>(s.x, 32)));
    for (int r = 0; r < V::lanes; ++r) {
        uint32_t bits;
        std::memcpy(&bits, &most[r], 4);
        const int exponent = static_cast<int>(bits >> 23) - 2;  // that of a float, 127 above
        s.byte[0][r] = static_cast<uint8_t>(exponent > 0 ? exponent : 0);
        const int e = s.byte[0][r];
        half_scale[r] = bfloat_to_float(static_cast<uint16_t>(e < 2 ? 0x20 << e : (e - 1) << 7));
    }
    const auto scale = V::load(half_scale);  // of the table, which holds the values twice
    alignas(64) uint8_t code[32][V::lanes];
    for (int i = 0; i < 32; ++i) {
        const auto v = s.at(i), magnitude = V::abs(v);
        auto least = magnitude, q = V::zero(), level = V::zero();
        for (int k = 1; k < 8; ++k) {
            const auto tried = V::mul(V::set1(kTableMXFP4[k]), scale), off = V::abs(V::sub(tried, magnitude));
            const auto nearer = V::less(off, least);
            least = V::select(nearer, off, least);
            q = V::select(nearer, V::set1(static_cast<float>(k)), q);
            level = V::select(nearer, tried, level);
        }
        const auto negative = V::both(V::less(v, V::zero()), V::less(V::zero(), q));
        s.to_bytes(V::select(negative, V::add(q, V::set1(8)), q), code[i]);
        s.stored(i, V::select(negative, V::sub(V::zero(), level), level));
    }
    s.put_bits(code, 16, 0, 15, 0, s.byte + 1);
    s.put_bits(code + 16, 16, 0, 15, 4, s.byte + 1);
}

}  // namespace localllm
