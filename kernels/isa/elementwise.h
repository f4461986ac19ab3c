// Row-wise operations between the linears, on any vector vocabulary. Lengths need not be multiples of the lanes.
#pragma once

#include <cmath>
#include <cstdint>

#include "isa/math.h"

namespace localllm {

enum class Activation : uint8_t { silu, gelu, gelu_erf };  // gelu: its tanh approximation

// Calls op(i, count) for each vector; the last may be shorter.
template <class V, class Op>
inline void over_vectors(int n, Op op) {
    int i = 0;
    for (; i + V::lanes <= n; i += V::lanes) op(i, V::lanes);
    if (i < n) op(i, n - i);
}

template <class V>
inline typename V::F load_part(const float* p, int count) {
    if (count == V::lanes) return V::load(p);
    alignas(64) float part[V::lanes] = {};
    for (int i = 0; i < count; ++i) part[i] = p[i];
    return V::load(part);
}

template <class V>
inline void store_part(float* p, typename V::F x, int count) {
    if (count == V::lanes) return V::store(p, x);
    alignas(64) float part[V::lanes];
    V::store(part, x);
    for (int i = 0; i < count; ++i) p[i] = part[i];
}

// out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, arXiv 1910.07467); the mean in double-width sums.
template <class V>
void rms_norm(const float* x, const float* weight, float* out, int n, float eps) {
    auto a = V::zero();
    double sum = 0;
    for (int start = 0; start < n; start += 1024) {
        const int stop = start + 1024 < n ? start + 1024 : n;
        a = V::zero();
        over_vectors<V>(stop - start, [&](int i, int count) {
            const auto v = load_part<V>(x + start + i, count);
            a = V::fma(v, v, a);
        });
        sum += static_cast<double>(V::reduce_add(a));
    }
    const auto scale = V::set1(static_cast<float>(1.0 / std::sqrt(sum / n + static_cast<double>(eps))));
    over_vectors<V>(n, [&](int i, int count) {
        const auto v = V::mul(V::mul(load_part<V>(x + i, count), scale), load_part<V>(weight + i, count));
        store_part<V>(out + i, v, count);
    });
}

// out = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias (Ba, Kiros and Hinton, arXiv 1607.06450); the
// means in double-width sums.
template <class V>
void layer_norm(const float* x, const float* weight, const float* bias, float* out, int n, float eps) {
    const auto mean_of = [&](auto value) {
        double sum = 0;
        for (int start = 0; start < n; start += 1024) {
            const int stop = start + 1024 < n ? start + 1024 : n;
            auto a = V::zero();
            over_vectors<V>(stop - start, [&](int i, int count) { a = V::add(a, value(start + i, count)); });
            sum += static_cast<double>(V::reduce_add(a));
        }
        return sum / n;
    };
    const auto from = [&](typename V::F middle, int i, int count) {
        return V::keep(V::sub(load_part<V>(x + i, count), middle), V::zero(), 0, count);
    };
    const double near = mean_of([&](int i, int count) { return load_part<V>(x + i, count); });
    const auto guess = V::set1(static_cast<float>(near));  // its error is seen where the row hardly varies
    const double rest = mean_of([&](int i, int count) { return from(guess, i, count); });
    const auto middle = V::set1(static_cast<float>(static_cast<double>(static_cast<float>(near)) + rest));
    const double spread = mean_of([&](int i, int count) {
        const auto v = from(middle, i, count);
        return V::mul(v, v);
    });
    const auto scale = V::set1(static_cast<float>(1.0 / std::sqrt(spread + static_cast<double>(eps))));
    over_vectors<V>(n, [&](int i, int count) {
        const auto v = V::mul(from(middle, i, count), scale);
        store_part<V>(out + i, V::fma(v, load_part<V>(weight + i, count), load_part<V>(bias + i, count)), count);
    });
}

template <class V>
inline typename V::F activated(typename V::F x, Activation kind) {
    if (kind == Activation::silu) return vsilu<V>(x);
    return kind == Activation::gelu ? vgelu<V>(x) : vgelu_erf<V>(x);
}

template <class V>
void act(const float* x, float* out, int n, Activation kind) {
    over_vectors<V>(
        n, [&](int i, int count) { store_part<V>(out + i, activated<V>(load_part<V>(x + i, count), kind), count); });
}

template <class V>
void gated_act(const float* gate, const float* up, float* out, int n, Activation kind) {
    over_vectors<V>(n, [&](int i, int count) {
        const auto a = activated<V>(load_part<V>(gate + i, count), kind);
        store_part<V>(out + i, V::mul(a, load_part<V>(up + i, count)), count);
    });
}

// out = a + factor * b
template <class V>
void add_scaled(const float* a, const float* b, float factor, float* out, int n) {
    const auto f = V::set1(factor);
    over_vectors<V>(n, [&](int i, int count) {
        store_part<V>(out + i, V::fma(load_part<V>(b + i, count), f, load_part<V>(a + i, count)), count);
    });
}

// x = cap * tanh(x / cap)
template <class V>
void softcap(float* x, int n, float cap) {
    over_vectors<V>(n, [&](int i, int count) {
        const auto y = vtanh<V>(V::mul(load_part<V>(x + i, count), V::set1(1.0f / cap)));
        store_part<V>(x + i, V::mul(V::set1(cap), y), count);
    });
}

}  // namespace localllm
