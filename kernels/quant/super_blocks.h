// Quantisers of the types with super-blocks of 256: Q2_K, Q4_K, Q5_K with a minimum for each group, Q3_K, Q6_K about
// zero. Groups are fitted first; their scales are rounded to integers of a common scale, and the codes then rounded
// again by what the scales have become.
#pragma once

#include "quant/fit.h"
#include "quant/small_blocks.h"

namespace localllm {

// The mean square of a block's values.
template <class V>
typename V::F mean_square(const Strip<V>& s) {
    auto sum = V::zero();
    for (int i = 0; i < kSuper; ++i) sum = V::add(sum, V::mul(s.at(i), s.at(i)));
    return V::mul(sum, V::set1(1.0f / kSuper));
}

// The sum of the weights of a group, which its scale is fitted with.
template <class V>
typename V::F sum_of(const float (*w)[V::lanes], int n) {
    auto sum = V::zero();
    for (int i = 0; i < n; ++i) sum = V::add(sum, V::load(w[i]));
    return sum;
}

// Scales and minima of a super-block's groups, and their codes.
template <class V>
struct Groups {
    alignas(64) float scale[16][V::lanes], low[16][V::lanes], weight[16][V::lanes];
    alignas(64) float scale_code[16][V::lanes], low_code[16][V::lanes];
    typename V::F d, dmin;
};

// Rounds values that are not negative to codes in [0, top]; returns their common scale. Without importance the largest
// gets the largest code.
template <class V>
typename V::F common_scale(bool fitted, const float (*x)[V::lanes], const float (*w)[V::lanes], int n, float top,
                           float (*code)[V::lanes]) {
    if (fitted) return fit_positive<V>(x, w, n, top, code);
    auto most = V::zero();
    for (int g = 0; g < n; ++g) most = V::max(V::load(x[g]), most);
    const auto there = V::less(V::zero(), most);
    const auto inverse = V::select(there, V::div(V::set1(top), V::select(there, most, V::set1(1.0f))), V::zero());
    for (int g = 0; g < n; ++g) V::store(code[g], nearest<V>(V::mul(inverse, V::load(x[g])), 0, top));
    return V::div(most, V::set1(top));
}

// d * scale * q - dmin * min, groups of n columns, codes up to `top`, scales and minima up to `scale_top`.
template <class V>
void quantise_with_minima(Strip<V>& s, Groups<V>& groups, int n, int d_at, float scale_top, const RangeSearch& search) {
    const int count = kSuper / n;
    for (int g = 0; g < count; ++g) {
        const Range<V> range = fit_range<V>(s.x + g * n, s.weight + g * n, n, search, s.code + g * n);
        V::store(groups.scale[g], range.scale);
        V::store(groups.low[g], V::sub(V::zero(), range.low));
        V::store(groups.weight[g], sum_of<V>(s.weight + g * n, n));
    }
    const bool fitted = s.importance != nullptr;
    const auto d = common_scale<V>(fitted, groups.scale, groups.weight, count, scale_top, groups.scale_code);
    const auto dmin = common_scale<V>(fitted, groups.low, groups.weight, count, scale_top, groups.low_code);
    groups.d = s.put_half(d_at, d);
    groups.dmin = s.put_half(d_at + 2, dmin);
    for (int g = 0; g < count; ++g) {
        const auto scale = V::mul(groups.d, V::load(groups.scale_code[g]));
        const auto low = V::mul(groups.dmin, V::load(groups.low_code[g]));
        const auto there = V::less(V::zero(), V::abs(scale));
        const auto divisor = V::select(there, scale, V::set1(1.0f));
        for (int i = g * n; i < (g + 1) * n; ++i) {
            const auto again = nearest<V>(V::div(V::add(s.at(i), low), divisor), 0, search.top);
            const auto code = V::select(there, again, V::load(s.code[i]));
            V::store(s.code[i], code);
            s.stored(i, V::sub(V::mul(scale, code), low));
        }
    }
}

// 2-bit codes: byte i of a run of 32 holds column i of four groups of 32 columns.
template <class V>
void put_two_bits(Strip<V>& s, const uint8_t (*code)[V::lanes], int at) {
    for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 4; ++part)
            s.put_bits(code + 128 * half + 32 * part, 32, 0, 3, 2 * part, s.byte + at + 32 * half);
}

template <class V>
void quantise_q2_k(Strip<V>& s) {
    Groups<V> groups;
    RangeSearch search{3, -0.5f, 0.1f, 15, true};
    if (s.importance) {
        weigh_by_importance<V>(s, mean_square(s), 0, kSuper);
        search = {3, -0.9f, 0.05f, 36};
    } else {
        for (int i = 0; i < kSuper; ++i) V::store(s.weight[i], V::abs(s.at(i)));
    }
    quantise_with_minima<V>(s, groups, 16, 80, 15, search);
    alignas(64) uint8_t code[kSuper][V::lanes];
    for (int g = 0; g < 16; ++g) {
        s.to_bytes(V::load(groups.low_code[g]), code[g]);
        s.put_bits(code + g, 1, 0, 15, 4, s.byte + g);
        s.to_bytes(V::load(groups.scale_code[g]), code[g]);
        s.put_bits(code + g, 1, 0, 15, 0, s.byte + g);
    }
    s.codes_to_bytes(0, kSuper, code);
    put_two_bits<V>(s, code, 16);
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes.
template <class V>
void put_six_bits(Strip<V>& s, const Groups<V>& groups, int at) {
    alignas(64) uint8_t scale[8][V::lanes], low[8][V::lanes];
    for (int g = 0; g < 8; ++g) {
        s.to_bytes(V::load(groups.scale_code[g]), scale[g]);
        s.to_bytes(V::load(groups.low_code[g]), low[g]);
    }
    s.put_bits(scale, 4, 0, 63, 0, s.byte + at);
    s.put_bits(scale + 4, 4, 4, 3, 6, s.byte + at);
    s.put_bits(low, 4, 0, 63, 0, s.byte + at + 4);
    s.put_bits(low + 4, 4, 4, 3, 6, s.byte + at + 4);
    s.put_bits(scale + 4, 4, 0, 15, 0, s.byte + at + 8);
    s.put_bits(low + 4, 4, 0, 15, 4, s.byte + at + 8);
}

// Q4_K, top = 15; Q5_K, top = 31
template <class V, int top>
void quantise_q4_q5_k(Strip<V>& s) {
    Groups<V> groups;
    RangeSearch search = top == 15 ? RangeSearch{15, -1.0f, 0.1f, 20} : RangeSearch{31, -0.5f, 0.1f, 15};
    if (s.importance) {
        weigh_by_importance<V>(s, V::mul(V::set1(2), mean_square(s)), 0, kSuper);
        search = {top, -0.9f, 0.05f, 36};
    } else {
        for (int first = 0; first < kSuper; first += 32) {
            auto sum = V::zero();
            for (int i = first; i < first + 32; ++i) sum = V::add(sum, V::mul(s.at(i), s.at(i)));
            const auto typical = V::sqrt(V::mul(sum, V::set1(1.0f / 32)));
            for (int i = first; i < first + 32; ++i) V::store(s.weight[i], V::add(typical, V::abs(s.at(i))));
        }
    }
    quantise_with_minima<V>(s, groups, 32, 0, 63, search);
    put_six_bits<V>(s, groups, 4);
    alignas(64) uint8_t code[kSuper][V::lanes];
    s.codes_to_bytes(0, kSuper, code);
    int at = 16;
    if (top == 31) {
        for (int g = 0; g < 8; ++g) s.put_bits(code + 32 * g, 32, 4, 1, g, s.byte + at);
        at += 32;
    }
    for (int g = 0; g < 8; ++g) s.put_bits(code + 32 * g, 32, 0, 15, 4 * (g % 2), s.byte + at + 32 * (g / 2));
}

// Codes about zero of groups of 16, rounded by the scales that the super-block has for them. A group without a scale
// keeps the codes it was fitted with.
template <class V>
void round_again(Strip<V>& s, int g, typename V::F scale, float half) {
    const auto there = V::less(V::zero(), V::abs(scale));
    const auto divisor = V::select(there, scale, V::set1(1.0f));
    for (int i = 16 * g; i < 16 * (g + 1); ++i) {
        const auto again = V::add(nearest<V>(V::div(s.at(i), divisor), -half, half - 1), V::set1(half));
        const auto code = V::select(there, again, V::load(s.code[i]));
        V::store(s.code[i], code);
        s.stored(i, V::mul(scale, V::sub(code, V::set1(half))));
    }
}

// d * (scale - 32) * (q - 4)
template <class V>
void quantise_q3_k(Strip<V>& s) {
    Groups<V> groups;
    if (s.importance)
        weigh_by_importance<V>(s, V::mul(V::set1(2), mean_square(s)), 0, kSuper);
    else
        for (int i = 0; i < kSuper; ++i) V::store(s.weight[i], V::mul(s.at(i), s.at(i)));
    for (int g = 0; g < 16; ++g) {
        const int i = 16 * g;
        V::store(groups.scale[g], s.importance ? fit_scale<V>(s.x + i, s.weight + i, 16, 4, s.code + i)
                                               : fit_scale_by_descent<V>(s.x + i, s.weight + i, 16, 4, s.code + i));
        V::store(groups.weight[g], sum_of<V>(s.weight + i, 16));
    }
    auto d = V::zero();
    if (s.importance) {
        d = fit_scale<V>(groups.scale, groups.weight, 16, 32, groups.scale_code);
    } else {
        const auto top = extreme<V>(groups.scale, 16);
        const auto there = V::less(V::zero(), V::abs(top));
        const auto inverse = V::div(V::set1(-32.0f), V::select(there, top, V::set1(1.0f)));
        for (int g = 0; g < 16; ++g) {
            const auto q = nearest<V>(V::mul(inverse, V::load(groups.scale[g])), -32, 31);
            V::store(groups.scale_code[g], V::select(there, V::add(q, V::set1(32)), V::zero()));
        }
        d = V::select(there, V::div(V::set1(1.0f), inverse), V::zero());
    }
    d = s.put_half(108, d);
    alignas(64) uint8_t code[kSuper][V::lanes];
    for (int g = 0; g < 16; ++g) {
        const auto scale = V::load(groups.scale_code[g]);
        round_again<V>(s, g, V::mul(d, V::sub(scale, V::set1(32))), 4);
        s.to_bytes(scale, code[g]);
        s.put_bits(code + g, 1, 0, 15, 4 * (g / 8), s.byte + 96 + g % 8);
        s.put_bits(code + g, 1, 4, 3, 2 * (g / 4), s.byte + 104 + g % 4);
    }
    s.codes_to_bytes(0, kSuper, code);
    for (int g = 0; g < 8; ++g) s.put_bits(code + 32 * g, 32, 2, 1, g, s.byte);
    put_two_bits<V>(s, code, 32);
}

// d * scale * (q - 32)
template <class V>
void quantise_q6_k(Strip<V>& s) {
    Groups<V> groups;
    for (int i = 0; i < kSuper; ++i)
        V::store(s.weight[i], s.importance ? V::set1(s.importance[i]) : V::mul(s.at(i), s.at(i)));
    for (int i = 0; i < kSuper; i += 16)
        V::store(groups.scale[i / 16], fit_scale<V>(s.x + i, s.weight + i, 16, 32, s.code + i));
    const auto top = extreme<V>(groups.scale, 16);
    const auto nothing = V::less(V::abs(top), V::set1(kNothing));
    const auto inverse = V::div(V::set1(-128.0f), V::select(nothing, V::set1(1.0f), top));
    const auto d = s.put_half(208, V::select(nothing, V::zero(), V::div(V::set1(1.0f), inverse)));
    for (int g = 0; g < 16; ++g) {
        const auto q = nearest<V>(V::mul(inverse, V::load(groups.scale[g])), -128, 127);
        const auto scale = V::select(nothing, V::zero(), q);
        s.to_bytes(scale, s.byte[192 + g]);
        round_again<V>(s, g, V::mul(d, scale), 32);
    }
    for (int i = 0; i < kSuper; ++i) V::store(s.code[i], V::select(nothing, V::zero(), V::load(s.code[i])));
    alignas(64) uint8_t code[kSuper][V::lanes];
    s.codes_to_bytes(0, kSuper, code);
    for (int part = 0; part < 8; ++part) {
        const int half = part / 4, low = 64 * half + 32 * (part % 2);
        s.put_bits(code + 32 * part, 32, 0, 15, 4 * (part % 4 / 2), s.byte + low);
        s.put_bits(code + 32 * part, 32, 4, 3, 2 * (part % 4), s.byte + 128 + 32 * half);
    }
}

}  // namespace localllm
