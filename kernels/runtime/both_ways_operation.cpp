// Attention of the tokens of each text among themselves: a work item is one head of one text.
#include <algorithm>

#include "runtime/operations.h"

namespace localllm {

namespace {

int64_t floats_of_a_thread(const AttentionBothWays& op, const Step& step) {
    int longest = 0;
    for (const Span& span : step.spans) longest = std::max(longest, span.length);
    return both_ways_floats(longest, op.head_dim);
}

}  // namespace

size_t AttentionBothWays::scratch(const Kernels&, const Step& step) const {
    return static_cast<size_t>(floats_of_a_thread(*this, step)) * step.threads * sizeof(float);
}

void AttentionBothWays::run(const Kernels& kernels, const Step& step, Team& team) const {
    AttendBothWays a;
    a.q_stride = static_cast<int64_t>(heads) * head_dim;
    a.kv_stride = static_cast<int64_t>(kv_heads) * head_dim;
    a.head_dim = head_dim;
    a.scale = scale;
    a.scratch = reinterpret_cast<float*>(step.scratch) + floats_of_a_thread(*this, step) * team.index;
    team.claim(step.counters[counter], static_cast<int>(step.spans.size()) * heads, [&](int item) {
        const Span& span = step.spans[item / heads];
        const int head = item % heads, kv_head = head / (heads / kv_heads);
        const int64_t to = span.start * a.q_stride + static_cast<int64_t>(head) * head_dim;
        const int64_t from = span.start * a.kv_stride + static_cast<int64_t>(kv_head) * head_dim;
        a.tokens = span.length;
        a.q = step.buffers[q] + to;
        a.k = step.buffers[k] + from;
        a.v = step.buffers[v] + from;
        a.out = step.buffers[out] + to;
        kernels.attend_both_ways(a);
    });
}

}  // namespace localllm
