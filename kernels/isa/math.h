// Elementary functions on any vector vocabulary.
#pragma once

namespace localllm {

// NaN stays NaN: max and min give their second argument then.
template <class V>
inline typename V::F vclamp(typename V::F x, float low, float high) {
    return V::min(V::set1(high), V::max(V::set1(low), x));
}

// e^x by 2^n * p(r), |r| <= ln 2 / 2; relative error below 2e-7. x is clamped to [-87, 88]: the result is never 0 and
// stays finite, but for NaN, which stays NaN.
template <class V>
inline typename V::F vexp(typename V::F x) {
    const auto clamped = vclamp<V>(x, -87.0f, 88.0f);
    const auto n = V::round(V::mul(clamped, V::set1(1.44269504f)));
    auto r = V::fnma(n, V::set1(0.693359375f), clamped);
    r = V::fnma(n, V::set1(-2.12194440e-4f), r);
    auto p = V::set1(1.9875691500e-4f);
    p = V::fma(p, r, V::set1(1.3981999507e-3f));
    p = V::fma(p, r, V::set1(8.3334519073e-3f));
    p = V::fma(p, r, V::set1(4.1665795894e-2f));
    p = V::fma(p, r, V::set1(1.6666665459e-1f));
    p = V::fma(p, r, V::set1(5.0000001201e-1f));
    p = V::fma(V::mul(r, r), p, V::add(r, V::set1(1.0f)));
    return V::mul(p, V::pow2(V::to_int(n)));
}

constexpr float kLog2e = 1.44269504f;

// 2^x for x <= 0, or NaN, which stays NaN; relative error below 2e-7. The result is never less than 2^-126.
template <class V>
inline typename V::F vexp2(typename V::F x) {
    const auto clamped = V::max(V::set1(-126.0f), x);
    const auto n = V::round(clamped);
    const auto r = V::sub(clamped, n);
    auto p = V::set1(1.3264745848e-3f);  // fitted for the least relative error where |r| <= 1/2
    p = V::fma(p, r, V::set1(9.6715125276e-3f));
    p = V::fma(p, r, V::set1(5.5507336920e-2f));
    p = V::fma(p, r, V::set1(2.4022242086e-1f));
    p = V::fma(p, r, V::set1(6.9314697761e-1f));
    p = V::fma(p, r, V::set1(1.0f));
    return V::mul(p, V::pow2(V::to_int(n)));
}

// The largest magnitude of n values, n a multiple of the lanes; NaN when one of them is not finite.
template <class V>
inline float peak(const float* x, int n) {
    auto largest = V::zero(), check = V::zero();
    for (int i = 0; i < n; i += V::lanes) {
        const auto v = V::load(x + i);
        largest = V::max(largest, V::abs(v));
        check = V::fma(v, V::zero(), check);
    }
    return V::reduce_max(largest) + V::reduce_add(check);
}

// What values are multiplied with before they are rounded to bytes. Too small a peak (or NaN) gives zeros.
inline float inverse_scale(float peak) {
    return peak > 1e-35f ? 127.0f / peak : 0.0f;
}

// tanh x = 1 - 2 / (e^2x + 1)
template <class V>
inline typename V::F vtanh(typename V::F x) {
    const auto e = vexp<V>(V::mul(V::set1(2.0f), x));
    return V::sub(V::set1(1.0f), V::div(V::set1(2.0f), V::add(e, V::set1(1.0f))));
}

// x * sigmoid(x)
template <class V>
inline typename V::F vsilu(typename V::F x) {
    return V::div(x, V::add(V::set1(1.0f), vexp<V>(V::sub(V::zero(), x))));
}

// GELU, tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415)
template <class V>
inline typename V::F vgelu(typename V::F x) {
    const auto cube = V::mul(V::mul(x, x), x);
    const auto inner = V::mul(V::set1(0.7978845608f), V::fma(V::set1(0.044715f), cube, x));
    return V::mul(V::mul(V::set1(0.5f), x), V::add(V::set1(1.0f), vtanh<V>(inner)));
}

// GELU: x times the normal distribution's share below x, as max(x, 0) - |x|/2 erfc(|x|/sqrt 2). erfc by Abramowitz and
// Stegun, 7.1.26: its error is below 2e-7.
template <class V>
inline typename V::F vgelu_erf(typename V::F x) {
    const auto size = V::abs(x), z = V::mul(size, V::set1(0.7071067812f));
    const auto t = V::div(V::set1(1.0f), V::fma(V::set1(0.3275911f), z, V::set1(1.0f)));
    auto p = V::set1(1.061405429f);
    p = V::fma(p, t, V::set1(-1.453152027f));
    p = V::fma(p, t, V::set1(1.421413741f));
    p = V::fma(p, t, V::set1(-0.284496736f));
    p = V::fma(p, t, V::set1(0.254829592f));
    const auto tail = V::mul(V::mul(p, t), vexp<V>(V::mul(z, V::sub(V::zero(), z))));
    return V::fnma(V::mul(V::set1(0.5f), size), tail, V::max(V::zero(), x));
}

}  // namespace localllm
