// Attention of a few query rows over the pages of one KV head. The rows are the query heads of a KV head, of one or
// several tokens, so that keys and values are read once for all of them. The history is cut into splits of 256 tokens;
// each is a softmax of its own, and their results are folded together in the order of the text (Milakov and Gimelshein,
// arXiv 1805.02867; Dao et al., arXiv 2205.14135). Splits can be computed one by one, by several threads, and give the
// same bits: where a split begins depends on nothing but the position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attention/gather.h"
#include "attention/scores.h"
#include "attention/splits.h"
#include "isa/math.h"

namespace localllm {

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
        if constexpr (type != CacheType::int8)
            score_numbers<V, type, rows>(pages.keys[page], pages.values[page], queries.q, head_dim, to);
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
            if constexpr (type != CacheType::int8)
                gather_numbers<V, type, rows, n>(pages, tokens, head_dim, scores, at, parts);
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

}  // namespace localllm
