// Quantisers of the types with blocks of 32: Q8_0, Q4_0, Q5_0, Q4_1, Q5_1.
//
// Without importance the extreme value, or both, gets the outermost codes and the others are rounded; with it scale and
// minimum are fitted.
#pragma once

#include "quant/fit.h"

namespace localllm {

// What an error counts where importances e are known (means of the squared inputs): e * sqrt(m + x^2), m the mean
// square around; large weights count a little more, as errors tend to grow with them.
template <class V>
void weigh_by_importance(Strip<V>& s, typename V::F mean_square, int first, int n) {
    for (int i = first; i < first + n; ++i) {
        const auto root = V::sqrt(V::add(mean_square, V::mul(s.at(i), s.at(i))));
        V::store(s.weight[i], V::mul(V::set1(s.importance[i]), root));
    }
}

// Codes of up to 5 bits: nibbles, code i low and i + 16 high, and before them the fifth bits, if there are.
template <class V>
void put_nibbles(Strip<V>& s, int at, bool fifth) {
    alignas(64) uint8_t code[32][V::lanes];
    s.codes_to_bytes(0, 32, code);
    if (fifth) {
        for (int i = 0; i < 32; ++i) s.put_bits(code + i, 1, 4, 1, i % 8, s.byte + at + i / 8);
        at += 4;
    }
    s.put_bits(code, 16, 0, 15, 0, s.byte + at);
    s.put_bits(code + 16, 16, 0, 15, 4, s.byte + at);
}

// d * q
template <class V>
void quantise_q8_0(Strip<V>& s) {
    auto most = V::zero();
    for (int i = 0; i < 32; ++i) most = V::max(most, V::abs(s.at(i)));
    const auto d = V::div(most, V::set1(127.0f)), inverse = inverse_or_zero<V>(d), stored = s.put_half(0, d);
    for (int i = 0; i < 32; ++i) {
        const auto v = V::mul(s.at(i), inverse), magnitude = V::abs(v), whole = V::floor(magnitude);
        const auto up = V::select(V::less(V::sub(magnitude, whole), V::set1(0.5f)), V::zero(), V::set1(1.0f));
        const auto q = V::add(whole, up);  // halves away from zero
        const auto code = V::select(V::less(v, V::zero()), V::sub(V::zero(), q), q);
        s.to_bytes(code, s.byte[2 + i]);
        s.stored(i, V::mul(stored, code));
    }
}

// d * (q - half): Q4_0, half = 8; Q5_0, half = 16
template <class V, int half>
void quantise_about_zero(Strip<V>& s) {
    constexpr float middle = half;
    typename V::F d;
    if (s.importance) {
        weigh_by_importance<V>(s, V::load(s.row_mean_square), 0, 32);
        d = fit_scale<V>(s.x, s.weight, 32, middle, s.code);
    } else {
        d = V::mul(extreme<V>(s.x, 32), V::set1(-1.0f / middle));
        const auto inverse = inverse_or_zero<V>(d);
        for (int i = 0; i < 32; ++i) {
            const auto q = V::floor(V::add(V::mul(s.at(i), inverse), V::set1(middle + 0.5f)));
            V::store(s.code[i], nearest<V>(q, 0, 2 * middle - 1));
        }
    }
    d = s.put_half(0, d);
    for (int i = 0; i < 32; ++i) s.stored(i, V::mul(d, V::sub(V::load(s.code[i]), V::set1(middle))));
    put_nibbles(s, 2, half == 16);
}

// d * q + m: Q4_1, top = 15; Q5_1, top = 31
template <class V, int top>
void quantise_from_low(Strip<V>& s) {
    typename V::F d, low;
    if (s.importance) {
        weigh_by_importance<V>(s, V::load(s.row_mean_square), 0, 32);
        const Range<V> range = fit_range<V>(s.x, s.weight, 32, {top, -0.9f, 0.05f, 36}, s.code);
        d = range.scale;
        low = range.low;
    } else {
        low = s.at(0);
        auto high = low;
        for (int i = 1; i < 32; ++i) low = V::min(s.at(i), low), high = V::max(s.at(i), high);
        d = V::div(V::sub(high, low), V::set1(top));
        const auto inverse = inverse_or_zero<V>(d);
        for (int i = 0; i < 32; ++i) {
            const auto q = V::floor(V::add(V::mul(V::sub(s.at(i), low), inverse), V::set1(0.5f)));
            V::store(s.code[i], nearest<V>(q, 0, top));
        }
    }
    d = s.put_half(0, d);
    low = s.put_half(2, low);
    for (int i = 0; i < 32; ++i) s.stored(i, V::add(V::mul(d, V::load(s.code[i])), low));
    put_nibbles(s, 4, top == 31);
}

}  // namespace localllm
