// Attention of a few query rows over the pages of one KV head: online softmax, one page at a time (Milakov and
// Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). The rows are the query heads of a KV head, of one or
// several tokens, so that keys and values are read once for all of them.
#pragma once

#include <cstring>

#include "attention/cache.h"
#include "isa/math.h"

namespace localllm {

constexpr int kMaxHeadDim = 512;
constexpr int kAttendRows = 8;

struct Attend {
    const Cache* cache;
    int layer, kv_head;
    const int32_t* table;         // page numbers of the sequence
    const float* q[kAttendRows];  // [head_dim] each
    float* out[kAttendRows];      // [head_dim] each
    int first[kAttendRows];       // token positions seen by a row: first <= position < last
    int last[kAttendRows];
    float scale;
    float softcap;  // 0: none
};

template <class V, int rows>
inline void score_f16(const uint8_t* keys, const float* q, int head_dim, float* scores) {
    constexpr int step = 2 * V::lanes;
    for (int t = 0; t < kPageTokens; t += step) {
        typename V::F sum[rows][2];
        for (auto& s : sum) s[0] = s[1] = V::zero();
        for (int i = 0; i < head_dim; ++i) {
            const uint8_t* p = keys + (static_cast<size_t>(i) * kPageTokens + t) * 2;
            const auto k0 = V::load_f16(p), k1 = V::load_f16(p + 2 * V::lanes);
            for (int r = 0; r < rows; ++r) {
                const auto x = V::set1(q[i * rows + r]);
                sum[r][0] = V::fma(k0, x, sum[r][0]);
                sum[r][1] = V::fma(k1, x, sum[r][1]);
            }
        }
        for (int r = 0; r < rows; ++r) {
            V::store(scores + r * kPageTokens + t, sum[r][0]);
            V::store(scores + r * kPageTokens + t + V::lanes, sum[r][1]);
        }
    }
}

// Keys and queries in bytes; `q_scale` holds the query's scale (softmax scale included), `seed` -128 * sum of q.
template <class V, int rows>
inline void score_int8(const uint8_t* keys, const int8_t* q, const float* q_scale, const int32_t* seed, int head_dim,
                       float* scores) {
    const float* k_scale = reinterpret_cast<const float*>(keys + static_cast<size_t>(head_dim) * kPageTokens);
    constexpr int step = 2 * V::lanes;
    for (int t = 0; t < kPageTokens; t += step) {
        typename V::I sum[rows][2];
        for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = V::iset1(V::dot8_needs_seed ? seed[r] : 0);
        for (int i = 0; i < head_dim / 4; ++i) {
            const uint8_t* p = keys + (static_cast<size_t>(i) * kPageTokens + t) * 4;
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
                V::store(scores + r * kPageTokens + at,
                         V::mul(V::mul(V::to_float(sum[r][h]), V::set1(q_scale[r])), V::load(k_scale + at)));
            }
    }
}

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

template <class V, CacheType type, int rows>
void attend(const Attend& a) {
    const int head_dim = a.cache->head_dim;
    alignas(64) float q[kMaxHeadDim * rows];
    alignas(64) int8_t q8[type == CacheType::int8 ? kMaxHeadDim * rows : 1];
    alignas(64) float out[rows][kMaxHeadDim];
    alignas(64) float scores[rows][kPageTokens];
    alignas(64) float probability[kPageTokens][rows];
    float q_scale[rows], top[rows], total[rows], shrink[rows];
    int32_t seed[rows];
    int begin = a.first[0], end = a.last[0];
    for (int r = 0; r < rows; ++r) {
        begin = a.first[r] < begin ? a.first[r] : begin;
        end = a.last[r] > end ? a.last[r] : end;
        top[r] = -3.0e38f;
        total[r] = 0;
        for (int i = 0; i < head_dim; ++i) out[r][i] = 0;
        if constexpr (type == CacheType::f16) {
            for (int i = 0; i < head_dim; ++i) q[i * rows + r] = a.q[r][i] * a.scale;
        } else {
            alignas(64) int8_t line[kMaxHeadDim];
            int sum = 0;
            q_scale[r] = quantise_head<V>(a.q[r], head_dim, line, &sum) * a.scale;
            seed[r] = -128 * sum;
            for (int i = 0; i < head_dim; i += 4) std::memcpy(q8 + (i / 4 * rows + r) * 4, line + i, 4);
        }
    }
    const float* v_scale = nullptr;
    for (int page = begin / kPageTokens; page * kPageTokens < end; ++page) {
        const uint8_t* keys = a.cache->head(a.layer, a.table[page], a.kv_head);
        const uint8_t* values = keys + a.cache->value_offset;
        const int start = page * kPageTokens;
        const int tokens = end - start < kPageTokens ? end - start : kPageTokens;
        if constexpr (type == CacheType::f16) {
            score_f16<V, rows>(keys, q, head_dim, scores[0]);
        } else {
            score_int8<V, rows>(keys, q8, q_scale, seed, head_dim, scores[0]);
            v_scale = reinterpret_cast<const float*>(values + static_cast<size_t>(head_dim) * kPageTokens);
        }
        for (int r = 0; r < rows; ++r) {
            auto largest = V::set1(top[r]);
            for (int t = 0; t < kPageTokens; t += V::lanes) {
                auto s = V::load(scores[r] + t);
                if (a.softcap > 0) s = V::mul(V::set1(a.softcap), vtanh<V>(V::mul(s, V::set1(1.0f / a.softcap))));
                s = V::keep(s, V::set1(-3.0e38f), a.first[r] - start - t, a.last[r] - start - t);
                largest = V::max(largest, s);
                V::store(scores[r] + t, s);
            }
            const float peak = V::reduce_max(largest);
            auto sum = V::zero();
            for (int t = 0; t < kPageTokens; t += V::lanes) {
                auto p = vexp<V>(V::sub(V::load(scores[r] + t), V::set1(peak)));
                p = V::keep(p, V::zero(), a.first[r] - start - t, a.last[r] - start - t);
                sum = V::add(sum, p);
                if constexpr (type == CacheType::int8) p = V::mul(p, V::load(v_scale + t));
                V::store(scores[r] + t, p);
            }
            alignas(64) float change[V::lanes];
            V::store(change, vexp<V>(V::set1(top[r] - peak)));
            shrink[r] = change[0];
            total[r] = total[r] * shrink[r] + V::reduce_add(sum);
            top[r] = peak;
            for (int t = 0; t < kPageTokens; ++t) probability[t][r] = scores[r][t];
        }
        constexpr int wide = rows >= 8 ? 1 : rows >= 4 ? 2 : 4;  // feature vectors at a time
        for (int i = 0; i < head_dim; i += wide * V::lanes) {
            typename V::F sum[wide][rows];
            const int width = head_dim - i < wide * V::lanes ? (head_dim - i) / V::lanes : wide;
            for (int w = 0; w < width; ++w)
                for (int r = 0; r < rows; ++r)
                    sum[w][r] = V::mul(V::load(out[r] + i + w * V::lanes), V::set1(shrink[r]));
            auto gather = [&](auto full) {
                for (int t = 0; t < tokens; ++t)
                    for (int w = 0; w < (full ? wide : width); ++w) {
                        const size_t at = static_cast<size_t>(t) * head_dim + i + w * V::lanes;
                        typename V::F v;
                        if constexpr (type == CacheType::f16)
                            v = V::load_f16(values + 2 * at);
                        else
                            v = V::load_i8(values + at);
                        for (int r = 0; r < rows; ++r) sum[w][r] = V::fma(V::set1(probability[t][r]), v, sum[w][r]);
                    }
            };
            struct Yes {
                constexpr operator bool() const { return true; }
            };
            struct No {
                constexpr operator bool() const { return false; }
            };
            if (width == wide)
                gather(Yes{});
            else
                gather(No{});
            for (int w = 0; w < width; ++w)
                for (int r = 0; r < rows; ++r) V::store(out[r] + i + w * V::lanes, sum[w][r]);
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < head_dim; i += V::lanes)
            V::store(a.out[r] + i, V::mul(V::load(out[r] + i), V::set1(total[r] > 0 ? 1.0f / total[r] : 0.0f)));
}

// What is too large for fp16 becomes its largest number: infinity would make every later row of the sequence NaN.
template <class V>
inline void store_saturated(void* p, typename V::F x) {
    V::store_f16(p, vclamp<V>(x, -65504.0f, 65504.0f));
}

// Writes the key and the value of one token and one KV head into slot `slot` of its page.
template <class V, CacheType type>
void store_token(const Cache& cache, uint8_t* head, int slot, const float* k, const float* v) {
    const int n = cache.head_dim;
    uint8_t* values = head + cache.value_offset;
    if constexpr (type == CacheType::f16) {
        alignas(64) uint16_t line[kMaxHeadDim];
        for (int i = 0; i < n; i += V::lanes) store_saturated<V>(line + i, V::load(k + i));
        uint16_t* keys = reinterpret_cast<uint16_t*>(head);
        for (int i = 0; i < n; ++i) keys[i * kPageTokens + slot] = line[i];
        for (int i = 0; i < n; i += V::lanes)
            store_saturated<V>(values + (static_cast<size_t>(slot) * n + i) * 2, V::load(v + i));
    } else {
        alignas(64) int8_t line[kMaxHeadDim];
        float* k_scale = reinterpret_cast<float*>(head + static_cast<size_t>(n) * kPageTokens);
        float* v_scale = reinterpret_cast<float*>(values + static_cast<size_t>(n) * kPageTokens);
        int unused = 0;
        k_scale[slot] = quantise_head<V>(k, n, line, &unused);
        for (int i = 0; i < n; ++i)
            head[(static_cast<size_t>(i / 4) * kPageTokens + slot) * 4 + i % 4] = static_cast<uint8_t>(line[i] ^ 0x80);
        v_scale[slot] =
            quantise_head<V>(v, n, reinterpret_cast<int8_t*>(values) + static_cast<size_t>(slot) * n, &unused);
    }
}

}  // namespace localllm
