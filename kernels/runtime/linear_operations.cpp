// The operations that multiply by weights: one linear input with several weights, and mixtures of experts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "gemm/tiles.h"
#include "runtime/operations.h"

namespace localllm {

namespace {

struct Needs {
    bool quants = false, floats = false;
    void add(const PackedMatrix& weight) { (is_float(weight.type) ? floats : quants) = true; }
};

// Panels are claimed in runs: long enough to stream, short enough that threads of unequal speed end together.
int run_length(int panels, int threads) {
    return std::clamp(panels / (threads * 8), 1, 64);
}

}  // namespace

size_t Linear::scratch(int rows) const {
    const int k = targets[0].weight->cols;
    return quant_room(rows, 1, k) + float_room(rows, 1, k);
}

void Linear::run(const Kernels& kernels, const Step& step, Team& team) const {
    const int n = rows(step), k = targets[0].weight->cols;
    if (n == 0) return;
    Needs needs;
    int panels = 0;
    for (const Target& t : targets) {
        needs.add(*t.weight);
        panels += t.weight->panels;
    }
    uint8_t* quants = needs.quants ? step.scratch : nullptr;
    uint8_t* floats = needs.floats ? step.scratch + quant_room(n, 1, k) : nullptr;
    std::vector<Tile> tiles;
    append_tiles(tiles, 0, 0, n, kernels.columns, k);
    const float* input = step.buffers[x];
    const auto [begin, end] = team.share(static_cast<int64_t>(tiles.size()));
    for (int64_t i = begin; i < end; ++i)
        prepare_tile(kernels, tiles[i], k, quants, floats,
                     [&](int slot) { return input + static_cast<int64_t>(slot) * k; });
    team.barrier();

    const int length = run_length(panels, team.size);
    for (;;) {
        const int from = step.counters[counter].fetch_add(length, std::memory_order_relaxed);
        if (from >= panels) break;
        for (int index = from; index < std::min(from + length, panels); ++index) {
            const Target* target = targets.data();
            int panel = index;
            while (panel >= target->weight->panels) panel -= (target++)->weight->panels;
            float* to = step.buffers[target->out];
            const int width = target->weight->rows;
            for (const Tile& tile : tiles)
                multiply(kernels, *target->weight, panel, tile, quants, floats,
                         [&](int slot, int first, int count, const float* y) {
                             float* row = to + static_cast<int64_t>(slot) * width + first;
                             const float* bias = target->bias ? target->bias + first : nullptr;
                             for (int i = 0; i < count; ++i) {
                                 const float value = bias ? y[i] + bias[i] : y[i];
                                 row[i] = accumulate ? row[i] + value : value;
                             }
                         });
        }
    }
}

namespace {

// Where the parts of an Experts step lie in the shared scratch.
struct ExpertsRoom {
    size_t logits, choices, weights, order, hidden, result, quants, floats, hidden_quants, hidden_floats, bytes;

    ExpertsRoom(int rows, int experts, int used, int k, int ffn) {
        const size_t slots = static_cast<size_t>(rows) * used;
        size_t at = 0;
        auto take = [&at](size_t size) {
            const size_t start = at;
            at += align64(size);
            return start;
        };
        logits = take(sizeof(float) * rows * experts);
        choices = take(sizeof(int32_t) * slots);
        weights = take(sizeof(float) * slots);
        order = take(sizeof(int32_t) * (slots + experts + 1));
        hidden = take(sizeof(float) * slots * ffn * 2);
        result = take(sizeof(float) * slots * k);
        quants = take(quant_room(static_cast<int>(slots), experts, k));
        floats = take(float_room(static_cast<int>(slots), experts, k));
        hidden_quants = take(quant_room(static_cast<int>(slots), experts, ffn));
        hidden_floats = take(float_room(static_cast<int>(slots), experts, ffn));
        bytes = at;
    }
};

}  // namespace

size_t Experts::scratch(int rows) const {
    return ExpertsRoom(rows, router->rows, used, gate->cols, gate->rows).bytes;
}

void Experts::run(const Kernels& kernels, const Step& step, Team& team) const {
    const int n = rows(step), k = gate->cols, ffn = gate->rows, experts = router->rows, slots = n * used;
    if (n == 0) return;
    const ExpertsRoom at(n, experts, used, k, ffn);
    uint8_t* room = step.scratch;
    auto* logits = reinterpret_cast<float*>(room + at.logits);
    auto* choices = reinterpret_cast<int32_t*>(room + at.choices);
    auto* shares = reinterpret_cast<float*>(room + at.weights);
    auto* order = reinterpret_cast<int32_t*>(room + at.order);  // slots sorted by expert, then the experts' starts
    int32_t* starts = order + slots;
    const float* input = step.buffers[x];

    // Each thread routes its own rows.
    const auto [first_row, last_row] = team.share(n);
    if (first_row < last_row) {
        std::vector<Tile> tiles;
        append_tiles(tiles, 0, 0, 1, kernels.columns, k);
        Memory quants(quant_room(1, 1, k)), floats(float_room(1, 1, k));
        std::vector<int32_t> best(experts);
        for (int64_t row = first_row; row < last_row; ++row) {
            float* score = logits + row * experts;
            prepare_tile(kernels, tiles[0], k, is_float(router->type) ? nullptr : quants.data(), floats.data(),
                         [&](int) { return input + row * k; });
            for (int panel = 0; panel < router->panels; ++panel)
                multiply(kernels, *router, panel, tiles[0], quants.data(), floats.data(),
                         [&](int, int first, int count, const float* y) {
                             std::memcpy(score + first, y, sizeof(float) * count);
                         });
            const float top = *std::max_element(score, score + experts);
            float total = 0;
            for (int e = 0; e < experts; ++e) total += score[e] = std::exp(score[e] - top);
            std::iota(best.begin(), best.end(), 0);
            // A strict order even for scores that are not numbers: those come last.
            auto value = [score](int32_t e) { return score[e] == score[e] ? score[e] : -1.0f; };
            std::partial_sort(best.begin(), best.begin() + used, best.end(), [&](int32_t a, int32_t b) {
                return value(a) > value(b) || (value(a) == value(b) && a < b);
            });
            float kept = 0;
            for (int i = 0; i < used; ++i) kept += score[best[i]];
            for (int i = 0; i < used; ++i) {
                choices[row * used + i] = best[i];
                shares[row * used + i] = score[best[i]] / (normalise ? kept : total) * scale;
            }
        }
    }
    team.barrier();

    // Group the slots by expert, so that each expert's weights are read once.
    if (team.index == 0) {
        std::fill(starts, starts + experts + 1, 0);
        for (int i = 0; i < slots; ++i) ++starts[choices[i] + 1];
        for (int e = 0; e < experts; ++e) starts[e + 1] += starts[e];
        std::vector<int32_t> next(starts, starts + experts);
        for (int i = 0; i < slots; ++i) order[next[choices[i]]++] = i;
    }
    team.barrier();

    std::vector<Tile> tiles, hidden_tiles;
    std::vector<int> expert_tiles(experts + 1, 0);
    for (int e = 0; e < experts; ++e) {
        append_tiles(tiles, e, starts[e], starts[e + 1] - starts[e], kernels.columns, k);
        append_tiles(hidden_tiles, e, starts[e], starts[e + 1] - starts[e], kernels.columns, ffn);
        expert_tiles[e + 1] = static_cast<int>(tiles.size());
    }
    Needs outer, inner;
    outer.add(*gate);
    outer.add(*up);
    inner.add(*down);
    uint8_t* quants = outer.quants ? room + at.quants : nullptr;
    uint8_t* floats = outer.floats ? room + at.floats : nullptr;
    uint8_t* hidden_quants = inner.quants ? room + at.hidden_quants : nullptr;
    uint8_t* hidden_floats = inner.floats ? room + at.hidden_floats : nullptr;
    auto* hidden = reinterpret_cast<float*>(room + at.hidden);  // [slot][gate, up]
    auto* result = reinterpret_cast<float*>(room + at.result);
    const auto [first_tile, last_tile] = team.share(static_cast<int64_t>(tiles.size()));
    for (int64_t i = first_tile; i < last_tile; ++i)
        prepare_tile(kernels, tiles[i], k, quants, floats,
                     [&](int slot) { return input + static_cast<int64_t>(order[slot] / used) * k; });
    team.barrier();

    // Panels of all experts form one list; an expert without rows is skipped.
    auto for_panels = [&](int which, int panels_each, auto&& work) {
        const int total = experts * panels_each, length = run_length(total, team.size);
        for (;;) {
            const int from = step.counters[counter + which].fetch_add(length, std::memory_order_relaxed);
            if (from >= total) break;
            for (int i = from; i < std::min(from + length, total); ++i) {
                const int e = i / panels_each;
                for (int t = expert_tiles[e]; t < expert_tiles[e + 1]; ++t) work(i % panels_each, t);
            }
        }
    };
    for_panels(0, 2 * gate->panels, [&](int panel, int t) {
        const bool is_up = panel >= gate->panels;
        multiply(kernels, is_up ? *up : *gate, is_up ? panel - gate->panels : panel, tiles[t], quants, floats,
                 [&](int slot, int first, int count, const float* y) {
                     std::memcpy(hidden + (static_cast<int64_t>(slot) * 2 + is_up) * ffn + first, y,
                                 sizeof(float) * count);
                 });
    });
    team.barrier();
    for (int64_t i = first_tile; i < last_tile; ++i) {
        const Tile& tile = hidden_tiles[i];
        for (int slot = tile.start; slot < tile.start + tile.valid; ++slot) {
            float* row = hidden + static_cast<int64_t>(slot) * 2 * ffn;
            kernels.gated_act(row, row + ffn, row, ffn, kind);
        }
        prepare_tile(kernels, tile, ffn, hidden_quants, hidden_floats,
                     [&](int slot) { return hidden + static_cast<int64_t>(slot) * 2 * ffn; });
    }
    team.barrier();
    for_panels(1, down->panels, [&](int panel, int t) {
        multiply(kernels, *down, panel, hidden_tiles[t], hidden_quants, hidden_floats,
                 [&](int slot, int first, int count, const float* y) {
                     std::memcpy(result + static_cast<int64_t>(order[slot]) * k + first, y, sizeof(float) * count);
                 });
    });
    team.barrier();
    for (int64_t row = first_row; row < last_row; ++row) {
        float* to = step.buffers[out] + row * k;
        std::fill(to, to + k, 0.0f);
        for (int i = 0; i < used; ++i)
            kernels.add_scaled(to, result + (row * used + i) * k, shares[row * used + i], to, k);
    }
}

}  // namespace localllm
