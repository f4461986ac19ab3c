// Several weights on one input, with the norm before them and the activation after them.
#include "runtime/corrections.h"

namespace localllm {

namespace {

size_t both_rooms(int rows, int k) {
    return room<QuantTile>(rows, 1, k) + room<FloatTile>(rows, 1, k);
}

// One row is prepared by every thread for itself: that takes less time than to wait for each other.
bool each_alone(int rows) {
    return rows == 1;
}

}  // namespace

size_t Linear::scratch(const Kernels& kernels, const Step& step) const {
    const Corrections corrections(kernels, *this, step);
    const int n = rows(step), k = targets[0].weight->cols;
    const size_t inputs = both_rooms(n, k) + corrections.input_bytes();
    return inputs * (each_alone(n) ? step.threads : 1) + corrections.reduced_bytes();
}

void Linear::run(const Kernels& kernels, const Step& step, Team& team) const {
    const int n = rows(step), k = targets[0].weight->cols;
    if (n == 0) return;
    Corrections corrections(kernels, *this, step);
    const size_t inputs = both_rooms(n, k) + corrections.input_bytes();
    uint8_t* memory = step.scratch + (each_alone(n) ? inputs * team.index : 0);
    uint8_t* adapted = memory + both_rooms(n, k);
    float* reduced = reinterpret_cast<float*>(step.scratch + inputs * (each_alone(n) ? step.threads : 1));
    Prepared prepared;
    for (const Target& t : targets) prepared.add(kernels, *t.weight, memory, memory + room<QuantTile>(n, 1, k));
    std::vector<Tile> tiles;
    append_tiles(tiles, 0, 0, n, kernels.columns, k);
    std::vector<float> normed(norm ? k : 0);
    auto input = [&](int slot) -> const float* {
        const float* row = step.buffers[x] + static_cast<int64_t>(slot) * k;
        if (!norm) return row;
        kernels.rms_norm(row, norm, normed.data(), k, eps);
        return normed.data();
    };
    if (step.squares) {
        std::vector<InputSquares*> squares;
        for (const Target& t : targets) squares.push_back(&step.squares->at(t.weight));
        add_squares(team, squares, 0, n, k, input);
    }
    const auto [begin, end] = each_alone(n) ? std::pair<int64_t, int64_t>(0, 1) : team.share(tiles.size());
    for (int64_t i = begin; i < end; ++i) prepare_tile(kernels, tiles[i], k, prepared, input);
    if (!corrections.none()) {
        const auto [first, last] = each_alone(n) ? std::pair<int64_t, int64_t>(0, 1) : team.share(corrections.tiles());
        corrections.prepare(first, last, adapted, input);
    }
    if (!each_alone(n)) team.barrier();
    if (!corrections.none()) {
        team.claim(step.counters[counter + 1], corrections.reductions(),
                   [&](int index) { corrections.reduce(index, adapted, reduced); });
        team.barrier();
        corrections.gather(reduced);
    }

    auto add_bias = [](const Target& target, const Tile& tile, int first, int count, float* y) {
        if (target.bias)
            for (int c = 0; c < tile.valid; ++c)
                for (int i = 0; i < count; ++i) y[c * kPanelRows + i] += target.bias[first + i];
    };
    auto store = [&](const Target& target, const Tile& tile, int first, int count, const float* y) {
        const int width = target.weight->rows;
        float* row = step.buffers[target.out] + static_cast<int64_t>(tile.start) * width + first;
        for (int c = 0; c < tile.valid; ++c, row += width, y += kPanelRows)
            if (accumulate)
                for (int i = 0; i < count; ++i) row[i] += y[i];
            else
                std::copy(y, y + count, row);
    };
    Corrections::Addend correction;
    auto multiply_by = [&](const Target& target, int slab, auto put) {
        if (!corrections.none()) corrections.expand(static_cast<int>(&target - targets.data()), slab, correction);
        multiply(kernels, *target.weight, slab, tiles, prepared, [&](const Tile& tile, int first, int count, float* y) {
            add_bias(target, tile, first, count, y);
            correction.add(tile, first, count, y);
            put(tile, first, count, y);
        });
    };
    if (gated) {
        std::vector<float> gate(static_cast<size_t>(n) * kSlabPanels * kPanelRows);
        team.claim(step.counters[counter], targets[0].weight->slabs(), [&](int slab) {
            // The panels come in the same order both times.
            float* kept = gate.data();
            multiply_by(targets[0], slab, [&](const Tile& tile, int, int, const float* y) {
                kept = std::copy(y, y + tile.valid * kPanelRows, kept);
            });
            kept = gate.data();
            multiply_by(targets[1], slab, [&](const Tile& tile, int first, int count, float* y) {
                const int size = tile.valid * kPanelRows;
                kernels.gated_act(kept, y, y, size, kind);
                store(targets[1], tile, first, count, y);
                kept += size;
            });
        });
        return;
    }
    int slabs = 0;
    for (const Target& t : targets) slabs += t.weight->slabs();
    team.claim(step.counters[counter], slabs, [&](int slab) {
        const Target* target = targets.data();
        while (slab >= target->weight->slabs()) slab -= (target++)->weight->slabs();
        multiply_by(*target, slab, [&](const Tile& tile, int first, int count, float* y) {
            if (activated) kernels.act(y, y, tile.valid * kPanelRows, kind);
            store(*target, tile, first, count, y);
        });
    });
}

}  // namespace localllm
