// Attention of a few query rows over the pages of one KV head. The rows are the query heads of a KV head, of one or
// several tokens, so that keys and values are read once for all of them. The history is cut into splits of 256 tokens;
// each is a softmax of its own, and their results are folded together in the order of the text (Milakov and Gimelshein,
// arXiv 1805.02867; Dao et al., arXiv 2205.14135). Splits can be computed one by one, by several threads, and give the
// same bits: where a split begins depends on nothing but the position.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attention/cache.h"
#include "isa/math.h"

namespace localllm {

constexpr int kMaxHeadDim = 512;
constexpr int kAttendRows = 8;
constexpr int kSplitTokens = 256;
constexpr int kSplitPages = kSplitTokens / kPageTokens;

// The result of one split for one row, or of several folded: float [head_dim] weighted sum of the values, then the
// sum of the weights and the largest score (in units of ln 2), which the weights are relative to.
constexpr int part_floats(int head_dim) {
    return head_dim + 16;
}

struct Attend {
    const Cache* cache;
    int layer, kv_head;
    const int32_t* table;         // page numbers of the sequence
    const float* q[kAttendRows];  // [head_dim] each
    int first[kAttendRows];       // token positions seen by a row: first <= position < last
    int last[kAttendRows];
    float scale;
    float softcap;             // 0: none
    float* out[kAttendRows];   // [head_dim] each
    float* parts;              // null: the whole history, into `out`. Else parts [split][row], and `out` is not used:
    int from_split, to_split;  // of the splits from_split <= split < to_split
};

// The splits that a row sees: first_split <= split < last_split.
inline int first_split(int first) {
    return first / kSplitTokens;
}
inline int last_split(int last) {
    return (last + kSplitTokens - 1) / kSplitTokens;
}

// Adds the next part of a row to what was folded so far.
template <class V>
inline void fold(float* sum, const float* part, int head_dim) {
    const float old_top = sum[head_dim + 1], new_top = part[head_dim + 1], top = old_top > new_top ? old_top : new_top;
    const auto old_share = vexp2<V>(V::set1(old_top - top)), new_share = vexp2<V>(V::set1(new_top - top));
    for (int i = 0; i < head_dim; i += V::lanes)
        V::store(sum + i, V::fma(V::load(sum + i), old_share, V::mul(V::load(part + i), new_share)));
    const auto total = V::fma(V::set1(sum[head_dim]), old_share, V::mul(V::set1(part[head_dim]), new_share));
    V::store(sum + head_dim, total);  // parts have room for a whole vector
    sum[head_dim + 1] = top;
}

// What was folded becomes the output.
template <class V>
inline void finish(const float* sum, int head_dim, float* out) {
    const auto inverse = V::div(V::set1(1.0f), V::set1(sum[head_dim]));
    for (int i = 0; i < head_dim; i += V::lanes) V::store(out + i, V::mul(V::load(sum + i), inverse));
}

// Folds `count` parts of one row, `stride` floats apart; the first one is overwritten.
template <class V>
void combine(float* parts, int count, int64_t stride, int head_dim, float* out) {
    for (int i = 1; i < count; ++i) fold<V>(parts, parts + i * stride, head_dim);
    finish<V>(parts, head_dim, out);
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

// A page's scores before scaling, to scores[row * kSplitTokens + token]. The page's values, which are needed next, are
// prefetched line by line.
template <class V, int rows>
inline void score_f16(const uint8_t* keys, const uint8_t* values, const float* q, int head_dim, float* scores) {
    constexpr int step = 2 * V::lanes;
    for (int t = 0; t < kPageTokens; t += step) {
        typename V::F sum[rows][2];
        for (auto& s : sum) s[0] = s[1] = V::zero();
        for (int i = 0; i < head_dim; ++i) {
            const size_t at = (static_cast<size_t>(i) * kPageTokens + t) * 2;
            const uint8_t* p = keys + at;
            if (at % 64 == 0) V::prefetch_far(values + at);
            const auto k0 = V::load_f16(p), k1 = V::load_f16(p + 2 * V::lanes);
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

// The pages of one split that hold what some row sees.
struct SplitPages {
    int count, start;  // start: position of the first token
    const uint8_t *keys[kSplitPages], *values[kSplitPages];
    const uint8_t* next[kSplitPages];  // keys of the next split, or again of this one: what to prefetch
};

inline SplitPages split_pages(const Attend& a, int split, int begin, int end, int to_split) {
    SplitPages pages;
    const int low = split * kSplitPages, first = begin / kPageTokens > low ? begin / kPageTokens : low;
    const int whole = (end + kPageTokens - 1) / kPageTokens;
    const int last = whole < low + kSplitPages ? whole : low + kSplitPages;
    pages.count = last - first;
    pages.start = first * kPageTokens;
    for (int i = 0; i < pages.count; ++i) {
        const int page = first + i, after = page + kSplitPages;
        const bool more = after < whole && after < to_split * kSplitPages;
        pages.keys[i] = a.cache->keys(a.layer, a.table[page], a.kv_head);
        pages.values[i] = a.cache->values(a.layer, a.table[page], a.kv_head);
        pages.next[i] = a.cache->keys(a.layer, a.table[more ? after : page], a.kv_head);
    }
    return pages;
}

// Sums of the values of half precision, weighted: `wide` feature vectors of all rows from feature `at`.
template <class V, int rows, int wide>
inline void gather_f16(const SplitPages& pages, int tokens, int head_dim, const float* weights, int at, float* parts) {
    typename V::F sum[wide][rows];
    for (auto& w : sum)
        for (auto& s : w) s = V::zero();
    for (int page = 0; page < pages.count; ++page) {
        const uint8_t* values = pages.values[page] + static_cast<size_t>(at) * 2;
        const uint8_t* next = pages.next[page] + static_cast<size_t>(at) * 2;
        const float* weight = weights + page * kPageTokens;
        const int count = tokens - page * kPageTokens < kPageTokens ? tokens - page * kPageTokens : kPageTokens;
        for (int t = 0; t < count; ++t) {
            const size_t row = static_cast<size_t>(t) * head_dim * 2;
            for (int w = 0; w < wide; ++w) {
                const size_t vector = row + 2 * w * V::lanes;
                if (2 * w * V::lanes % 64 == 0) V::prefetch_far(next + vector);
                const auto v = V::load_f16(values + vector);
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
        if constexpr (type == CacheType::f16) {
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

// One split of all rows, to parts [row]. A row that sees nothing of it gets a part without meaning.
template <class V, CacheType type, int rows>
inline void attend_split(const Attend& a, const Queries<type, rows>& queries, const SplitPages& pages, int end,
                         float* parts) {
    const int head_dim = a.cache->head_dim,
              tokens = end - pages.start < pages.count * kPageTokens ? end - pages.start : pages.count * kPageTokens;
    const size_t scales = static_cast<size_t>(head_dim) * kPageTokens;
    alignas(64) float scores[rows * kSplitTokens];
    alignas(64) int8_t high[type == CacheType::int8 ? rows * kSplitTokens : 1];
    alignas(64) int8_t low[type == CacheType::int8 ? rows * kSplitTokens : 1];
    float unit[rows];
    for (int page = 0; page < pages.count; ++page) {
        float* to = scores + page * kPageTokens;
        if constexpr (type == CacheType::int8)
            for (int line = 0; line < 2; ++line) {
                V::prefetch_far(pages.values[page] + scales + 64 * line);
                V::prefetch_far(pages.next[page] + scales + 64 * line);
            }
        if constexpr (type == CacheType::f16)
            score_f16<V, rows>(pages.keys[page], pages.values[page], queries.q, head_dim, to);
        else
            score_int8<V, rows>(pages.keys[page], pages.values[page], queries.q8, queries.scale, queries.seed, head_dim,
                                to);
    }
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * kSplitTokens;
        const int first = a.first[r] - pages.start, last = a.last[r] - pages.start, width = pages.count * kPageTokens;
        const bool all = first <= 0 && last >= width;
        auto largest = V::set1(-3.0e38f);
        for (int t = 0; t < width; t += V::lanes) {
            auto s = V::load(row + t);
            if (a.softcap > 0) s = V::mul(V::set1(a.softcap * kLog2e), vtanh<V>(V::mul(s, V::set1(1.0f / a.softcap))));
            if (!all) s = V::keep(s, V::set1(-3.0e38f), first - t, last - t);
            if (!all || a.softcap > 0) V::store(row + t, s);
            largest = V::max(largest, s);
        }
        const float top = V::reduce_max(largest);
        auto total = V::zero();
        auto heaviest = V::zero(), check = V::zero();
        for (int page = 0; page < pages.count; ++page)
            for (int i = 0; i < kPageTokens; i += V::lanes) {
                const int t = page * kPageTokens + i;
                auto p = vexp2<V>(V::sub(V::load(row + t), V::set1(top)));
                if (!all) p = V::keep(p, V::zero(), first - t, last - t);
                total = V::add(total, p);
                if constexpr (type == CacheType::int8) {
                    p = V::mul(p, V::load(reinterpret_cast<const float*>(pages.values[page] + scales) + i));
                    if (!all) p = V::keep(p, V::zero(), first - t, last - t);  // no token, perhaps no number either
                    heaviest = V::max(heaviest, p);
                    check = V::fma(p, V::zero(), check);
                }
                V::store(row + t, p);
            }
        float* part = parts + r * part_floats(head_dim);
        part[head_dim] = V::reduce_add(total);
        part[head_dim + 1] = top;
        if constexpr (type == CacheType::int8) {
            const float peak = V::reduce_max(heaviest), inverse = inverse_scale(peak);
            unit[r] = (peak + V::reduce_add(check)) / (127.0f * 127.0f);  // NaN where a weight was not finite
            for (int t = 0; t < width; t += V::lanes) {
                const auto x = V::mul(V::load(row + t), V::set1(inverse));
                const auto whole = V::round(V::sub(x, V::set1(0.5f)));
                V::store_i8(high + r * kSplitTokens + t, V::to_int(whole));
                V::store_i8(low + r * kSplitTokens + t, V::to_int(V::mul(V::sub(x, whole), V::set1(127.0f))));
            }
        }
    }
    // As many feature vectors at a time as there are registers for their sums.
    constexpr int room = type == CacheType::int8 ? V::columns : 2 * V::columns;
    constexpr int wide = room / rows > 4 ? 4 : room / rows;
    int at = 0;
    auto gather = [&](auto vectors) {
        constexpr int n = decltype(vectors)::value;
        for (; at + n * V::lanes <= head_dim; at += n * V::lanes)
            if constexpr (type == CacheType::f16)
                gather_f16<V, rows, n>(pages, tokens, head_dim, scores, at, parts);
            else
                gather_int8<V, rows, n>(pages, tokens, head_dim, high, low, unit, at, parts);
    };
    gather(std::integral_constant<int, wide>{});
    if constexpr (wide > 1) gather(std::integral_constant<int, 1>{});
}

template <class V, CacheType type, int rows>
void attend(const Attend& a) {
    const int head_dim = a.cache->head_dim, stride = part_floats(head_dim);
    Queries<type, rows> queries;
    prepare<V>(a, queries);
    int begin = a.first[0], end = a.last[0];
    for (int r = 1; r < rows; ++r) {
        begin = a.first[r] < begin ? a.first[r] : begin;
        end = a.last[r] > end ? a.last[r] : end;
    }
    if (a.parts) {
        for (int split = a.from_split; split < a.to_split; ++split)
            attend_split<V, type, rows>(a, queries, split_pages(a, split, begin, end, a.to_split), end,
                                        a.parts + static_cast<int64_t>(split - a.from_split) * rows * stride);
        return;
    }
    alignas(64) float sums[rows * part_floats(kMaxHeadDim)];
    alignas(64) float parts[rows * part_floats(kMaxHeadDim)];
    const int to_split = last_split(end);
    for (int split = first_split(begin); split < to_split; ++split) {
        attend_split<V, type, rows>(a, queries, split_pages(a, split, begin, end, to_split), end, parts);
        for (int r = 0; r < rows; ++r) {
            float *sum = sums + r * stride, *part = parts + r * stride;
            // A row may see fewer splits than those beside it; what it does not see must not touch its bits.
            if (split == first_split(a.first[r]))
                std::memcpy(sum, part, stride * sizeof(float));
            else if (split > first_split(a.first[r]) && split < last_split(a.last[r]))
                fold<V>(sum, part, head_dim);
        }
    }
    for (int r = 0; r < rows; ++r) finish<V>(sums + r * stride, head_dim, a.out[r]);
}

// What is too large for fp16 becomes its largest number: infinity would make every later row of the sequence NaN.
template <class V>
inline void store_saturated(void* p, typename V::F x) {
    V::store_f16(p, vclamp<V>(x, -65504.0f, 65504.0f));
}

// Writes the key and the value of one token and one KV head into slot `slot` of its page.
template <class V, CacheType type>
void store_token(int head_dim, uint8_t* keys, uint8_t* values, int slot, const float* k, const float* v) {
    const int n = head_dim;
    if constexpr (type == CacheType::f16) {
        alignas(64) uint16_t line[kMaxHeadDim];
        for (int i = 0; i < n; i += V::lanes) store_saturated<V>(line + i, V::load(k + i));
        for (int i = 0; i < n; ++i) reinterpret_cast<uint16_t*>(keys)[i * kPageTokens + slot] = line[i];
        for (int i = 0; i < n; i += V::lanes)
            store_saturated<V>(values + (static_cast<size_t>(slot) * n + i) * 2, V::load(v + i));
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
