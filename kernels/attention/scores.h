// Scores of query rows for the tokens of a page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "attention/splits.h"
#include "attention/store.h"
#include "isa/math.h"

namespace localllm {

// The queries as the scores need them, for all splits.
template <CacheType type, int rows>
struct Queries {
    static constexpr bool bytes = type == CacheType::int8;
    alignas(64) float q[bytes ? 1 : kMaxHeadDim * rows];    // [head_dim][rows], scaled
    alignas(64) int8_t q8[bytes ? kMaxHeadDim * rows : 1];  // [head_dim / 4][rows][4]
    float scale[rows];
    int32_t seed[rows];
};

template <class V, CacheType type, int rows>
inline void prepare(const Attend& a, Queries<type, rows>& queries) {
    const int head_dim = a.cache->head_dim;
    // Scores come in units of ln 2, for vexp2, but that a cap comes before.
    const float scale = a.softcap > 0 ? a.scale : a.scale * kLog2e;
    for (int r = 0; r < rows; ++r) {
        if constexpr (type != CacheType::int8) {
            for (int i = 0; i < head_dim; ++i) queries.q[i * rows + r] = a.q[r][i] * scale;
        } else {
            alignas(64) int8_t line[kMaxHeadDim];
            int sum = 0;
            queries.scale[r] = quantise_head<V>(a.q[r], head_dim, line, &sum) * scale;
            queries.seed[r] = -128 * sum;
            for (int i = 0; i < head_dim; i += 4) std::memcpy(queries.q8 + (i / 4 * rows + r) * 4, line + i, 4);
        }
    }
}

// A page's scores before scaling, to scores[row * kSplitTokens + token]. The page's values, which are needed next, are
// prefetched line by line.
template <class V, CacheType type, int rows>
inline void score_numbers(const uint8_t* keys, const uint8_t* values, const float* q, int head_dim, float* scores) {
    constexpr int step = 2 * V::lanes, bytes = number_bytes(type);
    for (int t = 0; t < kPageTokens; t += step) {
        typename V::F sum[rows][2];
        for (auto& s : sum) s[0] = s[1] = V::zero();
        for (int i = 0; i < head_dim; ++i) {
            const size_t at = (static_cast<size_t>(i) * kPageTokens + t) * bytes;
            const uint8_t* p = keys + at;
            if (at % 64 == 0) V::prefetch_far(values + at);
            if constexpr (step * bytes > 64) V::prefetch_far(values + at + 64);
            const auto k0 = load_numbers<V, type>(p), k1 = load_numbers<V, type>(p + bytes * V::lanes);
            for (int r = 0; r < rows; ++r) {
                const auto x = V::set1(q[i * rows + r]);
                sum[r][0] = V::fma(k0, x, sum[r][0]);
                sum[r][1] = V::fma(k1, x, sum[r][1]);
            }
        }
        for (int r = 0; r < rows; ++r) {
            V::store(scores + r * kSplitTokens + t, sum[r][0]);
            V::store(scores + r * kSplitTokens + t + V::lanes, sum[r][1]);
        }
    }
}

// Keys and queries in bytes; `q_scale` holds the query's scale (softmax scale included), `seed` -128 * sum of q.
template <class V, int rows>
inline void score_int8(const uint8_t* keys, const uint8_t* values, const int8_t* q, const float* q_scale,
                       const int32_t* seed, int head_dim, float* scores) {
    const float* k_scale = reinterpret_cast<const float*>(keys + static_cast<size_t>(head_dim) * kPageTokens);
    constexpr int step = 2 * V::lanes;
    for (int t = 0; t < kPageTokens; t += step) {
        typename V::I sum[rows][2];
        for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = V::iset1(V::dot8_needs_seed ? seed[r] : 0);
        for (int i = 0; i < head_dim / 4; ++i) {
            const size_t at = (static_cast<size_t>(i) * kPageTokens + t) * 4;
            const uint8_t* p = keys + at;
            V::prefetch_far(values + at);
            if constexpr (8 * V::lanes > 64) V::prefetch_far(values + at + 64);
            const auto k0 = V::bload(p), k1 = V::bload(p + 4 * V::lanes);
            for (int r = 0; r < rows; ++r) {
                const auto x = V::broadcast4(q + (i * rows + r) * 4);
                sum[r][0] = V::dot8(sum[r][0], k0, x);
                sum[r][1] = V::dot8(sum[r][1], k1, x);
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int h = 0; h < 2; ++h) {
                const int at = t + h * V::lanes;
                V::store(scores + r * kSplitTokens + at,
                         V::mul(V::mul(V::to_float(sum[r][h]), V::set1(q_scale[r])), V::load(k_scale + at)));
            }
    }
}

}  // namespace localllm
