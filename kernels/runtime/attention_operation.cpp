// Appends the batch's keys and values to the cache, then attends: one work item is a block of query rows that share
// a KV head.
#include <algorithm>

#include "runtime/operations.h"

namespace localllm {

void Attention::run(const Kernels& kernels, const Step& step, Team& team) const {
    const Cache& cache = *step.cache;
    const int kind = static_cast<int>(cache.type);
    const int64_t kv_width = static_cast<int64_t>(kv_heads) * head_dim,
                  q_width = static_cast<int64_t>(heads) * head_dim;
    for (const Span& span : step.spans) {
        const auto [begin, end] = team.share(static_cast<int64_t>(span.length) * kv_heads);
        for (int64_t item = begin; item < end; ++item) {
            const int64_t i = item / kv_heads, h = item % kv_heads, position = span.past + i;
            uint8_t* head = cache.head(layer, span.table[position / kPageTokens], static_cast<int>(h));
            const int64_t at = (span.start + i) * kv_width + h * head_dim;
            kernels.store_token[kind](cache, head, static_cast<int>(position % kPageTokens), step.buffers[k] + at,
                                      step.buffers[v] + at);
        }
    }
    team.barrier();

    const int group = heads / kv_heads, widest = kernels.columns;
    int item = 0, mine = step.counters[counter].fetch_add(1, std::memory_order_relaxed);
    for (const Span& span : step.spans) {
        const int total = span.length * group;  // query rows of one KV head, token by token
        for (int h = 0; h < kv_heads; ++h)
            for (int row = 0; row < total; row += widest, ++item) {
                if (item != mine) continue;
                mine = step.counters[counter].fetch_add(1, std::memory_order_relaxed);
                const int valid = std::min(widest, total - row);
                int slot = 0;
                while ((1 << slot) < valid) ++slot;
                Attend a;
                a.cache = &cache;
                a.layer = layer;
                a.kv_head = h;
                a.table = span.table;
                a.scale = scale;
                a.softcap = softcap;
                float unused[kMaxHeadDim];
                for (int r = 0; r < (1 << slot); ++r) {
                    const int at = row + std::min(r, valid - 1);
                    const int64_t token = at / group, head = static_cast<int64_t>(h) * group + at % group;
                    const int64_t offset = (span.start + token) * q_width + head * head_dim;
                    const int position = span.past + static_cast<int>(token);
                    a.q[r] = step.buffers[q] + offset;
                    a.out[r] = r < valid ? step.buffers[out] + offset : unused;
                    a.last[r] = position + 1;
                    a.first[r] = window > 0 ? std::max(0, position + 1 - window) : 0;
                }
                kernels.attend[kind][slot](a);
            }
    }
}

}  // namespace localllm
