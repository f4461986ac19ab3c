// What the quantisers of all types work on: a strip of V::lanes rows, one vector lane a row.
//
// Rows are rounded apart from each other, so what the mathematics says of one number can be written down once for a
// whole strip: a comparison becomes a mask, a branch a choice between two lanes. Each lane adds in the order of the
// columns and without fused multiplication, so the bytes of a row do not depend on the vectors' width.
#pragma once

#include <cstdint>
#include <cstring>

#include "quant/format.h"

namespace localllm {

// Columns of a strip as the quantisers read them, and the bytes of the block they make, each byte of all rows together.
template <class V>
struct Strip {
    using F = typename V::F;
    static constexpr int lanes = V::lanes;

    alignas(64) float x[kSuper][lanes];       // the values of one block
    alignas(64) float weight[kSuper][lanes];  // what an error there counts
    alignas(64) float code[kSuper][lanes];    // whole numbers, before they are put into bytes
    alignas(64) uint8_t byte[kSuper][lanes];  // the block in the format's order
    alignas(64) float row_mean_square[lanes];
    const float* importance;  // of the block's columns; null: what is important is not known
    F squares, errors;        // sums over the block: x^2, and (stored value - x)^2

    F at(int i) const { return V::load(x[i]); }
    // Notes the value that the format stores for column i.
    void stored(int i, F value) {
        const F v = at(i), off = V::sub(value, v);
        squares = V::add(squares, V::mul(v, v));
        errors = V::add(errors, V::mul(off, off));
    }
    // Puts halves into bytes `first` and `first` + 1; returns them as the format's reader sees them.
    F put_half(int first, F value) {
        alignas(64) uint16_t half[lanes];
        V::store_f16(half, value);
        for (int r = 0; r < lanes; ++r) {
            byte[first][r] = static_cast<uint8_t>(half[r]);
            byte[first + 1][r] = static_cast<uint8_t>(half[r] >> 8);
        }
        return V::load_f16(half);
    }
    // Codes [first, first + n) as bytes.
    void codes_to_bytes(int first, int n, uint8_t (*out)[lanes]) const {
        for (int i = 0; i < n; ++i) to_bytes(V::load(code[first + i]), out[i]);
    }
    static void to_bytes(F value, uint8_t* out) { V::store_i8(reinterpret_cast<int8_t*>(out), V::to_int(value)); }
    // out[i] |= the bits of in[i] from `from` on, `mask` wide, moved to `to`.
    static void put_bits(const uint8_t (*in)[lanes], int n, int from, int mask, int to, uint8_t (*out)[lanes]) {
        for (int i = 0; i < n; ++i)
            for (int r = 0; r < lanes; ++r) out[i][r] |= static_cast<uint8_t>(((in[i][r] >> from) & mask) << to);
    }
};

// The nearest whole number in [low, high], halves to even; `low` for what is not a number.
template <class V>
typename V::F nearest(typename V::F x, float low, float high) {
    return V::min(V::max(V::round(x), V::set1(low)), V::set1(high));
}

// 1 / x, and 0 for 0
template <class V>
typename V::F inverse_or_zero(typename V::F x) {
    const auto there = V::less(V::zero(), V::abs(x));
    return V::select(there, V::div(V::set1(1.0f), V::select(there, x, V::set1(1.0f))), V::zero());
}

// The value of the largest magnitude among n, the first of equals.
template <class V>
typename V::F extreme(const float (*x)[V::lanes], int n) {
    auto most = V::zero(), value = V::zero();
    for (int i = 0; i < n; ++i) {
        const auto v = V::load(x[i]);
        const auto more = V::less(most, V::abs(v));
        most = V::select(more, V::abs(v), most);
        value = V::select(more, v, value);
    }
    return value;
}

constexpr float kNothing = 1e-15f;  // groups of smaller values are zeros

}  // namespace localllm
