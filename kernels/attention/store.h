// Writes keys and values to the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention/cache.h"
#include "isa/math.h"

namespace localllm {

// Rounds one head to bytes; returns the scale. Values that are not finite give zeros and the scale NaN.
template <class V>
inline float quantise_head(const float* x, int n, int8_t* out, int* sum) {
    const float top = peak<V>(x, n);
    const auto inverse = V::set1(inverse_scale(top));
    for (int i = 0; i < n; i += V::lanes) {
        const auto rounded = top == top ? V::to_int(V::mul(V::load(x + i), inverse)) : V::izero();
        *sum += V::reduce_add(rounded);
        V::store_i8(out + i, rounded);
    }
    return top / 127.0f;
}

// Some numbers of a cache that is not of bytes.
template <class V, CacheType type>
inline typename V::F load_numbers(const uint8_t* p) {
    static_assert(type != CacheType::int8);
    if constexpr (type == CacheType::f32)
        return V::load(reinterpret_cast<const float*>(p));
    else
        return V::load_f16(p);
}

// What is too large for fp16 becomes its largest number: infinity would make every later row of the sequence NaN.
template <class V, CacheType type>
inline void store_numbers(void* p, typename V::F x) {
    static_assert(type != CacheType::int8);
    if constexpr (type == CacheType::f32)
        V::store(static_cast<float*>(p), x);
    else
        V::store_f16(p, vclamp<V>(x, -65504.0f, 65504.0f));
}

// Writes the key and the value of one token and one KV head into slot `slot` of its page.
template <class V, CacheType type>
void store_token(int head_dim, uint8_t* keys, uint8_t* values, int slot, const float* k, const float* v) {
    const int n = head_dim;
    if constexpr (type != CacheType::int8) {
        using Number = std::conditional_t<type == CacheType::f32, float, uint16_t>;
        alignas(64) Number line[kMaxHeadDim];
        for (int i = 0; i < n; i += V::lanes) store_numbers<V, type>(line + i, V::load(k + i));
        for (int i = 0; i < n; ++i) reinterpret_cast<Number*>(keys)[i * kPageTokens + slot] = line[i];
        Number* value = reinterpret_cast<Number*>(values) + static_cast<size_t>(slot) * n;
        for (int i = 0; i < n; i += V::lanes) store_numbers<V, type>(value + i, V::load(v + i));
    } else {
        alignas(64) int8_t line[kMaxHeadDim];
        float* k_scale = reinterpret_cast<float*>(keys + static_cast<size_t>(n) * kPageTokens);
        float* v_scale = reinterpret_cast<float*>(values + static_cast<size_t>(n) * kPageTokens);
        int unused = 0;
        k_scale[slot] = quantise_head<V>(k, n, line, &unused);
        for (int i = 0; i < n; ++i)
            keys[(static_cast<size_t>(i / 4) * kPageTokens + slot) * 4 + i % 4] = static_cast<uint8_t>(line[i] ^ 0x80);
        v_scale[slot] = quantise_head<V>(v, n, line, &unused);
        for (int i = 0; i < n; ++i)
            values[(static_cast<size_t>(slot / 4) * n + i) * 4 + slot % 4] = static_cast<uint8_t>(line[i]);
    }
}

}  // namespace localllm
