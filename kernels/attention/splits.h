// What attention works on, and what it makes: the pages of one split of a history, and the parts that splits give.
#pragma once

#include <cstdint>

#include "attention/cache.h"
#include "isa/math.h"

namespace localllm {

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

}  // namespace localllm
