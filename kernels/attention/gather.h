// Weighted sums of the values of a split.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/splits.h"
#include "attention/store.h"

namespace localllm {

// Sums of the values, weighted: `wide` feature vectors of all rows from feature `at`.
template <class V, CacheType type, int rows, int wide>
inline void gather_numbers(const SplitPages& pages, int tokens, int head_dim, const float* weights, int at,
                           float* parts) {
    constexpr int bytes = number_bytes(type);
    typename V::F sum[wide][rows];
    for (auto& w : sum)
        for (auto& s : w) s = V::zero();
    for (int page = 0; page < pages.count; ++page) {
        const uint8_t* values = pages.values[page] + static_cast<size_t>(at) * bytes;
        const uint8_t* next = pages.next[page] + static_cast<size_t>(at) * bytes;
        const float* weight = weights + page * kPageTokens;
        const int count = tokens - page * kPageTokens < kPageTokens ? tokens - page * kPageTokens : kPageTokens;
        for (int t = 0; t < count; ++t) {
            const size_t row = static_cast<size_t>(t) * head_dim * bytes;
            for (int w = 0; w < wide; ++w) {
                const size_t vector = row + bytes * w * V::lanes;
                if (bytes * w * V::lanes % 64 == 0) V::prefetch_far(next + vector);
                const auto v = load_numbers<V, type>(values + vector);
                for (int r = 0; r < rows; ++r) sum[w][r] = V::fma(V::set1(weight[r * kSplitTokens + t]), v, sum[w][r]);
            }
        }
    }
    for (int w = 0; w < wide; ++w)
        for (int r = 0; r < rows; ++r) V::store(parts + r * part_floats(head_dim) + at + w * V::lanes, sum[w][r]);
}

// The same of values in bytes. A weight is (127 * high + low) * unit, its digits from 0 to 127; sums are integers.
template <class V, int rows, int wide>
inline void gather_int8(const SplitPages& pages, int tokens, int head_dim, const int8_t* high, const int8_t* low,
                        const float* unit, int at, float* parts) {
    typename V::I sum[wide][rows][2];
    for (auto& w : sum)
        for (auto& s : w) s[0] = s[1] = V::izero();
    for (int page = 0; page < pages.count; ++page) {
        const uint8_t* values = pages.values[page] + static_cast<size_t>(at) * 4;
        const uint8_t* next = pages.next[page] + static_cast<size_t>(at) * 4;
        const int base = page * kPageTokens;
        const int count = tokens - base < kPageTokens ? tokens - base : kPageTokens;
        for (int t = 0; t < count; t += 4) {
            const size_t row = static_cast<size_t>(t) * head_dim;
            typename V::B v[wide];
            for (int w = 0; w < wide; ++w) {
                const size_t vector = row + 4 * w * V::lanes;
                if (4 * w * V::lanes % 64 == 0) V::prefetch_far(next + vector);
                v[w] = V::bload(values + vector);
            }
            for (int r = 0; r < rows; ++r) {
                const auto h = V::broadcast4(high + r * kSplitTokens + base + t);
                const auto l = V::broadcast4(low + r * kSplitTokens + base + t);
                for (int w = 0; w < wide; ++w) {
                    sum[w][r][0] = V::dot7(sum[w][r][0], h, v[w]);
                    sum[w][r][1] = V::dot7(sum[w][r][1], l, v[w]);
                }
            }
        }
    }
    for (int w = 0; w < wide; ++w)
        for (int r = 0; r < rows; ++r) {
            const auto both = V::fma(V::to_float(sum[w][r][0]), V::set1(127.0f), V::to_float(sum[w][r][1]));
            V::store(parts + r * part_floats(head_dim) + at + w * V::lanes, V::mul(both, V::set1(unit[r])));
        }
}

}  // namespace localllm
