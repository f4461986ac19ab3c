// Several weights on one input.
#include "gemm/tiles.h"
#include "runtime/operations.h"

namespace localllm {

size_t Linear::scratch(int rows) const {
    const int k = targets[0].weight->cols;
    return quant_room(rows, 1, k) + float_room(rows, 1, k);
}

void Linear::run(const Kernels& kernels, const Step& step, Team& team) const {
    const int n = rows(step), k = targets[0].weight->cols;
    if (n == 0) return;
    Prepared prepared;
    int slabs = 0;
    for (const Target& t : targets) {
        prepared.add(*t.weight, step.scratch, step.scratch + quant_room(n, 1, k));
        slabs += t.weight->slabs();
    }
    std::vector<Tile> tiles;
    append_tiles(tiles, 0, 0, n, kernels.columns, k);
    const float* input = step.buffers[x];
    const auto [begin, end] = team.share(static_cast<int64_t>(tiles.size()));
    for (int64_t i = begin; i < end; ++i)
        prepare_tile(kernels, tiles[i], k, prepared, [&](int slot) { return input + static_cast<int64_t>(slot) * k; });
    team.barrier();

    team.claim(step.counters[counter], slabs, [&](int slab) {
        const Target* target = targets.data();
        while (slab >= target->weight->slabs()) slab -= (target++)->weight->slabs();
        float* to = step.buffers[target->out];
        const int width = target->weight->rows;
        multiply(kernels, *target->weight, slab, tiles, prepared, [&](int slot, int first, int count, const float* y) {
            float* row = to + static_cast<int64_t>(slot) * width + first;
            const float* bias = target->bias ? target->bias + first : nullptr;
            for (int i = 0; i < count; ++i) {
                const float value = bias ? y[i] + bias[i] : y[i];
                row[i] = accumulate ? row[i] + value : value;
            }
        });
    });
}

}  // namespace localllm
