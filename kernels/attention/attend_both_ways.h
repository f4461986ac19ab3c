// Attention of one head of one text in which every token sees all others: that of encoders. Keys and values are the
// step's own, in full precision, and are not kept.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/splits.h"
#include "isa/math.h"

namespace localllm {

constexpr int kAlignedTokens = 32;  // scores are computed for a multiple of it

struct AttendBothWays {
    const float *q, *k,
        *v;      // the head of the first token; those of the others follow, `q_stride` and `kv_stride` apart
    float* out;  // as q
    int64_t q_stride, kv_stride;
    int tokens, head_dim;
    float scale;
    float* scratch;  // both_ways_floats
};

// Rounded up to what scores are computed for.
constexpr int aligned_tokens(int tokens) {
    return (tokens + kAlignedTokens - 1) / kAlignedTokens * kAlignedTokens;
}

// Floats of scratch: keys [head_dim][aligned tokens], scores [rows][aligned tokens].
constexpr int64_t both_ways_floats(int tokens, int head_dim) {
    return static_cast<int64_t>(aligned_tokens(tokens)) * (head_dim + kAttendRows);
}

// Some rows from `row` on. What is computed for one does not depend on how many there are.
template <class V, int rows>
inline void attend_rows(const AttendBothWays& a, int row) {
    const int width = aligned_tokens(a.tokens), d = a.head_dim;
    const float* keys = a.scratch;
    float* scores = a.scratch + static_cast<int64_t>(width) * d;
    alignas(64) float q[kMaxHeadDim * rows];  // [head_dim][rows]; scores come in units of ln 2, for vexp2
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < d; ++i) q[i * rows + r] = a.q[(row + r) * a.q_stride + i] * (a.scale * kLog2e);
    for (int t = 0; t < width; t += 2 * V::lanes) {
        typename V::F sum[rows][2];
        for (auto& s : sum) s[0] = s[1] = V::zero();
        for (int i = 0; i < d; ++i) {
            const float* key = keys + static_cast<int64_t>(i) * width + t;
            const auto k0 = V::load(key), k1 = V::load(key + V::lanes);
            for (int r = 0; r < rows; ++r) {
                const auto x = V::set1(q[i * rows + r]);
                sum[r][0] = V::fma(k0, x, sum[r][0]);
                sum[r][1] = V::fma(k1, x, sum[r][1]);
            }
        }
        for (int r = 0; r < rows; ++r)
            for (int half = 0; half < 2; ++half) {
                const int at = t + half * V::lanes;
                V::store(scores + static_cast<int64_t>(r) * width + at,
                         V::keep(sum[r][half], V::set1(-3.0e38f), 0, a.tokens - at));
            }
    }
    float share[rows];  // of each weight in the sum
    for (int r = 0; r < rows; ++r) {
        float* score = scores + static_cast<int64_t>(r) * width;
        auto largest = V::set1(-3.0e38f), total = V::zero();
        for (int t = 0; t < width; t += V::lanes) largest = V::max(largest, V::load(score + t));
        const auto top = V::set1(V::reduce_max(largest));
        for (int t = 0; t < width; t += V::lanes) {
            const auto weight = V::keep(vexp2<V>(V::sub(V::load(score + t), top)), V::zero(), 0, a.tokens - t);
            total = V::add(total, weight);
            V::store(score + t, weight);
        }
        share[r] = 1.0f / V::reduce_add(total);
    }
    int at = 0;
    auto gather = [&](auto vectors) {
        constexpr int wide = decltype(vectors)::value;
        for (; at + wide * V::lanes <= d; at += wide * V::lanes) {
            typename V::F sum[wide][rows];
            for (auto& w : sum)
                for (auto& s : w) s = V::zero();
            for (int t = 0; t < a.tokens; ++t)
                for (int w = 0; w < wide; ++w) {
                    const auto value = V::load(a.v + t * a.kv_stride + at + w * V::lanes);
                    for (int r = 0; r < rows; ++r)
                        sum[w][r] = V::fma(V::set1(scores[static_cast<int64_t>(r) * width + t]), value, sum[w][r]);
                }
            for (int w = 0; w < wide; ++w)
                for (int r = 0; r < rows; ++r)
                    V::store(a.out + (row + r) * a.q_stride + at + w * V::lanes, V::mul(sum[w][r], V::set1(share[r])));
        }
    };
    // As many feature vectors at a time as there are registers for their sums.
    constexpr int wide = 2 * V::columns / rows > 4 ? 4 : 2 * V::columns / rows;
    gather(std::integral_constant<int, wide>{});
    gather(std::integral_constant<int, 1>{});
}

// The rows from `row` on, in blocks that get smaller at the end.
template <class V, int rows>
inline void attend_from(const AttendBothWays& a, int row) {
    for (; row + rows <= a.tokens; row += rows) attend_rows<V, rows>(a, row);
    if constexpr (rows > 1) attend_from<V, rows / 2>(a, row);
}

template <class V>
void attend_both_ways(const AttendBothWays& a) {
    constexpr int block = 16;
    const int width = aligned_tokens(a.tokens);
    // Keys with tokens side by side, so that one vector lane is one token; a few at a time, whose lines stay near.
    for (int first = 0; first < width; first += block)
        for (int i = 0; i < a.head_dim; ++i) {
            float* key = a.scratch + static_cast<int64_t>(i) * width;
            for (int t = first; t < first + block; ++t) key[t] = t < a.tokens ? a.k[t * a.kv_stride + i] : 0;
        }
    attend_from<V, V::columns>(a, 0);
}

}  // namespace localllm
