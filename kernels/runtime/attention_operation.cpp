// Prepares the heads of q and k, appends the batch's keys and values to the cache, then attends. A block is up to 8
// query rows that share a KV head. Blocks with a long history are cut into runs of splits, so that all threads have
// work where rows are few; their parts are combined after a barrier. Cutting changes no bits (attention/splits.h).
#include <algorithm>

#include "runtime/operations.h"

namespace localllm {

namespace {

struct RowBlock {
    const Span* span;
    int kv_head, row, valid, slot;  // first row, rows in use, log2 of the rows computed
    int first, last;                // splits first <= split < last
};

// The blocks of a step, and how they are cut: the same on every thread.
class Plan {
  public:
    Plan(const Attention& op, const Step& step, int widest)
        : op_(op), spans_(step.spans), widest_(widest), group_(op.heads / op.kv_heads) {
        int64_t all = 0;
        for_blocks([&](const RowBlock& block) { all += block.last - block.first; });
        constexpr int items = 8;  // for each thread, so that threads of unequal speed end together
        longest_ = std::max<int64_t>(1, all / (items * step.threads));
    }

    // Splits in one work item of a block.
    int run(const RowBlock& block) const {
        const int splits = block.last - block.first, items = static_cast<int>((splits + longest_ - 1) / longest_);
        return (splits + items - 1) / items;
    }
    bool is_cut(const RowBlock& block) const { return block.last - block.first > longest_; }
    // Floats of a cut block's parts.
    int64_t floats(const RowBlock& block) const {
        return static_cast<int64_t>(block.last - block.first) * part_floats(op_.head_dim) << block.slot;
    }

    template <class Work>
    void for_blocks(Work work) const {
        for (const Span& span : spans_) {
            const int total = span.length * group_;  // query rows of one KV head, token by token
            for (int h = 0; h < op_.kv_heads; ++h)
                for (int row = 0; row < total; row += widest_) {
                    RowBlock block{&span, h, row, std::min(widest_, total - row), 0, 0, 0};
                    while ((1 << block.slot) < block.valid) ++block.slot;
                    block.first = first_split(first_seen(position(block, 0)));
                    block.last = last_split(position(block, block.valid - 1) + 1);
                    work(block);
                }
        }
    }

    int position(const RowBlock& block, int r) const { return block.span->past + (block.row + r) / group_; }
    int first_seen(int position) const { return op_.window > 0 ? std::max(0, position + 1 - op_.window) : 0; }
    // Where the query of a row is in its buffer, and its output.
    int64_t offset(const RowBlock& block, int r) const {
        const int64_t token = block.span->start + (block.row + r) / group_;
        const int64_t head = static_cast<int64_t>(block.kv_head) * group_ + (block.row + r) % group_;
        return (token * op_.heads + head) * op_.head_dim;
    }

    Attend attend(const RowBlock& block, const Step& step, float* unused) const {
        Attend a;
        a.cache = step.cache;
        a.layer = op_.layer;
        a.kv_head = block.kv_head;
        a.table = block.span->table;
        a.scale = op_.scale;
        a.softcap = op_.softcap;
        a.parts = nullptr;
        for (int i = 0; i < (1 << block.slot); ++i) {
            const int r = std::min(i, block.valid - 1);
            a.q[i] = step.buffers[op_.q] + offset(block, r);
            a.out[i] = i < block.valid ? step.buffers[op_.out] + offset(block, r) : unused;
            a.last[i] = position(block, r) + 1;
            a.first[i] = first_seen(position(block, r));
        }
        return a;
    }

  private:
    const Attention& op_;
    const std::vector<Span>& spans_;
    const int widest_, group_;
    int64_t longest_;  // splits in one work item
};

}  // namespace

size_t Attention::scratch(const Kernels& kernels, const Step& step) const {
    const Plan plan(*this, step, kernels.columns);
    int64_t floats = 0;
    plan.for_blocks([&](const RowBlock& block) { floats += plan.is_cut(block) ? plan.floats(block) : 0; });
    return floats * sizeof(float);
}

void Attention::run(const Kernels& kernels, const Step& step, Team& team) const {
    const Cache& cache = *step.cache;
    const int kind = static_cast<int>(cache.type);
    const int64_t kv_width = static_cast<int64_t>(kv_heads) * head_dim;
    auto prepare = [&](const HeadNorm& norm, int64_t row, float* head) {
        if (norm.weight) kernels.rms_norm(head, norm.weight, head, head_dim, norm.eps);
        if (rotation.number >= 0) rotation.turn(step, row, head);
    };
    const auto [first, last] = team.share(static_cast<int64_t>(step.rows) * heads);
    for (int64_t item = first; item < last; ++item) prepare(q_norm, item / heads, step.buffers[q] + item * head_dim);
    for (const Span& span : step.spans) {
        const auto [begin, end] = team.share(static_cast<int64_t>(span.length) * kv_heads);
        for (int64_t item = begin; item < end; ++item) {
            const int64_t i = item / kv_heads, h = item % kv_heads, position = span.past + i;
            const int page = span.table[position / kPageTokens], slot = static_cast<int>(position % kPageTokens);
            const int64_t at = (span.start + i) * kv_width + h * head_dim;
            prepare(k_norm, span.start + i, step.buffers[k] + at);
            kernels.store_token[kind](head_dim, cache.keys(layer, page, static_cast<int>(h)),
                                      cache.values(layer, page, static_cast<int>(h)), slot, step.buffers[k] + at,
                                      step.buffers[v] + at);
        }
    }
    team.barrier();

    const Plan plan(*this, step, kernels.columns);
    float* parts = reinterpret_cast<float*>(step.scratch);
    int item = 0, cut = 0, mine = step.counters[counter].fetch_add(1, std::memory_order_relaxed);
    plan.for_blocks([&](const RowBlock& block) {
        const bool is_cut = plan.is_cut(block);
        const int run = plan.run(block), splits = block.last - block.first;
        for (int done = 0; done < splits; done += run, ++item) {
            if (item != mine) continue;
            mine = step.counters[counter].fetch_add(1, std::memory_order_relaxed);
            float unused[kMaxHeadDim];
            Attend a = plan.attend(block, step, unused);
            if (is_cut) {
                a.from_split = block.first + done;
                a.to_split = std::min(a.from_split + run, block.last);
                a.parts = parts + (static_cast<int64_t>(done) * part_floats(head_dim) << block.slot);
            }
            kernels.attend[kind][block.slot](a);
        }
        if (is_cut) {
            parts += plan.floats(block);
            cut += block.valid;
        }
    });
    if (cut == 0) return;
    team.barrier();

    // Row by row: this thread's share of the rows that were cut.
    const auto [begin, end] = team.share(cut);
    int row = 0;
    parts = reinterpret_cast<float*>(step.scratch);
    plan.for_blocks([&](const RowBlock& block) {
        if (!plan.is_cut(block)) return;
        for (int r = 0; r < block.valid; ++r, ++row) {
            if (row < begin || row >= end) continue;
            const int position = plan.position(block, r), first = first_split(plan.first_seen(position));
            const int64_t stride = static_cast<int64_t>(part_floats(head_dim)) << block.slot;
            kernels.combine(parts + (first - block.first) * stride + static_cast<int64_t>(r) * part_floats(head_dim),
                            last_split(position + 1) - first, stride, head_dim,
                            step.buffers[out] + plan.offset(block, r));
        }
        parts += plan.floats(block);
    });
}

}  // namespace localllm
