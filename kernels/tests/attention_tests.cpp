#include <algorithm>
#include <cmath>

#include "attention/splits.h"
#include "isa/kernels.h"
#include "tests/testing.h"

namespace localllm {

namespace {

struct Shape {
    int heads, kv_heads, head_dim, window;
    float scale, softcap;
};

// The same attention split by split, in runs as work items cut it: the same bits.
void check_parts(const Kernels& kernels, Random& random, CacheType type, Attend a, int rows) {
    const int d = a.cache->head_dim, slot = rows == 1 ? 0 : rows == 2 ? 1 : rows == 4 ? 2 : 3;
    const int from = first_split(*std::min_element(a.first, a.first + rows));
    const int to = last_split(*std::max_element(a.last, a.last + rows));
    const int64_t stride = static_cast<int64_t>(rows) * part_floats(d);
    Exact<float> parts((to - from) * stride), out(d);
    std::vector<int> cuts{from};
    while (cuts.back() < to) cuts.push_back(random.between(cuts.back() + 1, to));
    for (size_t i = cuts.size() - 1; i-- > 0;) {  // the last run first: their order does not matter
        a.from_split = cuts[i];
        a.to_split = cuts[i + 1];
        a.parts = parts.data() + (cuts[i] - from) * stride;
        kernels.attend[static_cast<int>(type)][slot](a);
    }
    for (int r = 0; r < rows; ++r) {
        const int first = first_split(a.first[r]);
        kernels.combine(parts.data() + (first - from) * stride + r * part_floats(d), last_split(a.last[r]) - first,
                        stride, d, out.data());
        check(std::equal(out.begin(), out.end(), a.out[r]), "%s attention: row %d of %d in %d splits has other bits",
              kernels.name, r, rows, to - from);
    }
}

// Attention of one KV head over a paged history, all group sizes; queries, outputs and table of
// exact size.
void check_attention(const Kernels& kernels, Random& random, CacheType type, const Shape& s, int length) {
    const int group = s.heads / s.kv_heads, kind = static_cast<int>(type);
    const int pages = (length + kPageTokens - 1) / kPageTokens, spare = pages + 2, d = s.head_dim;
    const Cache cache(2, s.kv_heads, d, spare, type);
    Exact<int32_t> table(pages);
    for (int p = 0; p < pages; ++p) table[p] = (p * 2 + 1) % spare == p ? p : spare - 1 - p;
    const int layer = random.below(2);
    const double tolerance = type == CacheType::int8 ? 5e-4 : 2e-5;  // weights of bytes have 14 bits
    const Exact<float> k = normals(random, static_cast<size_t>(length) * s.kv_heads * d), v = normals(random, k.size());
    auto seen = [&](const float* x) {
        if (type == CacheType::int8) return requantised(x, d, d);
        std::vector<double> out(x, x + d);
        if (type == CacheType::f32) return out;
        for (int i = 0; i < d; ++i) out[i] = half_to_float(float_to_half(x[i]));
        return out;
    };
    for (int h = 0; h < s.kv_heads; ++h) {
        for (int t = 0; t < length; ++t) {
            const size_t at = (static_cast<size_t>(t) * s.kv_heads + h) * d;
            const int page = table[t / kPageTokens];
            kernels.store_token[kind](d, cache.keys(layer, page, h), cache.values(layer, page, h), t % kPageTokens,
                                      k.data() + at, v.data() + at);
        }
        int slot = 0;
        while ((1 << slot) < std::min(group, kernels.columns)) ++slot;
        const int rows = 1 << slot;
        Attend a{};
        a.cache = &cache;
        a.layer = layer;
        a.kv_head = h;
        a.table = table.data();
        a.scale = s.scale;
        a.softcap = s.softcap;
        std::vector<Exact<float>> q, out;
        for (int r = 0; r < rows; ++r) {
            q.push_back(normals(random, d));
            out.emplace_back(d);
            a.q[r] = q[r].data();
            a.out[r] = out[r].data();
            a.last[r] = random.between(std::max(1, length - random.pick<int>({0, 5, 300})), length);
            a.first[r] = s.window > 0 ? std::max(0, a.last[r] - s.window) : 0;
        }
        kernels.attend[kind][slot](a);
        check_parts(kernels, random, type, a, rows);
        for (int r = 0; r < rows; ++r) {
            const std::vector<double> query =
                type == CacheType::int8 ? seen(a.q[r]) : std::vector<double>(a.q[r], a.q[r] + d);
            std::vector<double> score, sum(d);
            double top = -1e300, total = 0;
            for (int t = a.first[r]; t < a.last[r]; ++t) {
                const std::vector<double> key = seen(k.data() + (static_cast<size_t>(t) * s.kv_heads + h) * d);
                double dot = 0;
                for (int i = 0; i < d; ++i) dot += query[i] * key[i];
                dot *= static_cast<double>(s.scale);
                if (s.softcap > 0) dot = s.softcap * std::tanh(dot / s.softcap);
                score.push_back(dot);
                top = std::max(top, dot);
            }
            for (int t = a.first[r]; t < a.last[r]; ++t) {
                const std::vector<double> value = seen(v.data() + (static_cast<size_t>(t) * s.kv_heads + h) * d);
                const double p = std::exp(score[t - a.first[r]] - top);
                total += p;
                for (int i = 0; i < d; ++i) sum[i] += p * value[i];
            }
            for (int i = 0; i < d; ++i)
                check(std::fabs(out[r][i] - sum[i] / total) < tolerance,
                      "%s attention: %d tokens, head %d, row %d of %d, feature %d: %g for %g", kernels.name, length, d,
                      r, rows, i, static_cast<double>(out[r][i]), sum[i] / total);
        }
    }
}

// One head of one text, its keys and values beside those of others; every array of exact size, scratch too.
void check_both_ways(const Kernels& kernels, Random& random, int tokens, int d) {
    const int heads = random.between(1, 3), kv_heads = random.between(1, 2);
    const Exact<float> q = normals(random, static_cast<size_t>(tokens) * heads * d), out(q.size());
    const Exact<float> k = normals(random, static_cast<size_t>(tokens) * kv_heads * d), v = normals(random, k.size());
    const Exact<float> scratch(both_ways_floats(tokens, d));
    for (float& x : scratch) x = std::nanf("");  // what earlier texts left
    AttendBothWays a{};
    a.q_stride = static_cast<int64_t>(heads) * d;
    a.kv_stride = static_cast<int64_t>(kv_heads) * d;
    a.tokens = tokens;
    a.head_dim = d;
    a.scale = 1.0f / std::sqrt(static_cast<float>(d));
    a.scratch = scratch.data();
    for (int h = 0; h < heads; ++h) {
        const int kv = h % kv_heads;
        a.q = q.data() + h * d;
        a.k = k.data() + kv * d;
        a.v = v.data() + kv * d;
        a.out = out.data() + h * d;
        kernels.attend_both_ways(a);
        for (int row = 0; row < tokens; ++row) {
            std::vector<double> weight(tokens), sum(d);
            double total = 0;
            for (int t = 0; t < tokens; ++t) {
                double dot = 0;
                for (int i = 0; i < d; ++i)
                    dot +=
                        static_cast<double>(a.q[row * a.q_stride + i]) * static_cast<double>(a.k[t * a.kv_stride + i]);
                weight[t] = std::exp(dot * static_cast<double>(a.scale));
                total += weight[t];
                for (int i = 0; i < d; ++i) sum[i] += weight[t] * static_cast<double>(a.v[t * a.kv_stride + i]);
            }
            for (int i = 0; i < d; ++i)
                check(std::fabs(a.out[row * a.q_stride + i] - sum[i] / total) < 1e-5,
                      "%s attention both ways: %d tokens, head %d, row %d, feature %d", kernels.name, tokens, d, row,
                      i);
        }
    }
}

}  // namespace

void test_attention_both_ways() {
    Random random(9);
    for (const Kernels* kernels : available_kernels())
        for (int i = 0; i < 40; ++i) {
            const int tokens = i < 12 ? i + 1 : random.between(13, 150);
            check_both_ways(*kernels, random, tokens, 16 * random.pick<int>({1, 2, 3, 4, 8, 32}));
        }
}

void test_attention() {
    Random random(7);
    for (const Kernels* kernels : available_kernels())
        for (CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8})
            for (int i = 0; i < 40; ++i) {
                Shape s{};
                s.kv_heads = random.between(1, 3);
                s.heads = s.kv_heads * random.pick<int>({1, 2, 3, 4, 7, 8});
                s.head_dim = 16 * random.pick<int>({1, 2, 3, 4, 5, 8, 32});
                s.window = random.below(2) ? 0 : random.between(1, 70);
                s.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
                s.softcap = random.below(2) ? 0.0f : 3.0f;
                const int length = i % 4 ? random.between(1, 100) : random.between(200, 1100);
                if (length > 100 && s.head_dim > 128) s.head_dim = 128;
                check_attention(*kernels, random, type, s, length);
            }
}

}  // namespace localllm
