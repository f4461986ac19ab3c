#include "runtime/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/operations.h"

namespace localllm {

int Program::add_weight(Type type, int matrices, int rows, int cols, const uint8_t* data) {
    PackedMatrix packed(type, matrices, rows, cols);
    packed.data = weight_memory.take(packed.bytes());
    const int panels = packed.panels, total = panels * matrices;
    std::atomic<int> next{0};
    pool.run([&](Team&) {
        for (int i = next.fetch_add(1); i < total; i = next.fetch_add(1))
            pack_panel(data, packed, i / panels, i % panels, packed.data + i * packed.panel_bytes);
    });
    weights.push_back(packed);
    return static_cast<int>(weights.size()) - 1;
}

int Program::add_packed(Type type, int matrices, int rows, int cols, const uint8_t* packed) {
    PackedMatrix matrix(type, matrices, rows, cols);
    matrix.data = const_cast<uint8_t*>(packed);  // only ever read
    weights.push_back(matrix);
    return static_cast<int>(weights.size()) - 1;
}

int Program::pack_weight(Type type, int matrices, int rows, int cols, const uint8_t* data, const Write& write) {
    const PackedMatrix packed(type, matrices, rows, cols);
    constexpr size_t part = size_t{256} << 10;  // stays in the cache between packing and writing
    const int panels = packed.panels, total = panels * matrices;
    const int run = static_cast<int>(std::max<size_t>(1, part / packed.panel_bytes));
    std::atomic<int> next{0};
    std::atomic<int> error{0};
    pool.run([&](Team&) {
        std::vector<uint8_t> buffer(run * packed.panel_bytes);
        for (int from = next.fetch_add(run); from < total && !error; from = next.fetch_add(run)) {
            const int count = std::min(run, total - from);
            std::fill(buffer.begin(), buffer.end(), uint8_t{0});
            for (int i = 0; i < count; ++i)
                pack_panel(data, packed, (from + i) / panels, (from + i) % panels,
                           buffer.data() + i * packed.panel_bytes);
            const int failed = write(buffer.data(), count * packed.panel_bytes, from * packed.panel_bytes);
            if (failed) error = failed;
        }
    });
    return error;
}

uint64_t Program::checksum(const uint8_t* data, size_t bytes) {
    std::atomic<uint64_t> total{0};
    pool.run([&](Team& team) {
        const auto [begin, end] = team.share(static_cast<int64_t>(bytes / 8));
        uint64_t sum = 0;
        for (int64_t i = begin; i < end; ++i) {
            uint64_t word;
            std::memcpy(&word, data + 8 * i, 8);
            sum += word * static_cast<uint64_t>(2 * i + 1);
        }
        total += sum;
    });
    return total;
}

void Program::add(std::unique_ptr<Operation> operation) {
    if (dynamic_cast<const Select*>(operation.get())) selected_ = true;
    operation->on_selected = selected_;
    operation->counter = 2 * static_cast<int>(operations.size());
    operations.push_back(std::move(operation));
    counters_ = std::make_unique<std::atomic<int>[]>(2 * operations.size());
}

void Program::run(Step& step) {
    size_t scratch = 0, floats = 0;
    step.threads = pool.size();
    for (const auto& operation : operations) scratch = std::max(scratch, operation->step_scratch(kernels, step));
    if (scratch > scratch_.bytes()) scratch_ = Memory(scratch);
    for (int width : widths) floats += align64(static_cast<size_t>(width) * step.rows);
    if (floats * sizeof(float) > arena_.bytes()) arena_ = Memory(floats * sizeof(float));
    step.scratch = scratch_.data();
    step.buffers.clear();
    floats = 0;
    for (int width : widths) {
        step.buffers.push_back(arena_.as<float>() + floats);
        floats += align64(static_cast<size_t>(width) * step.rows);
    }
    for (size_t i = 0; i < 2 * operations.size(); ++i) counters_[i].store(0, std::memory_order_relaxed);
    step.counters = counters_.get();
    step.rotations.resize(rotations.size());
    for (size_t i = 0; i < rotations.size(); ++i)
        step.rotations[i].resize(vectors[rotations[i].frequencies].size() * 2 * step.rows);

    pool.run([&](Team& team) {
        const auto [begin, end] = team.share(step.rows);
        for (size_t i = 0; i < rotations.size(); ++i) {
            const auto& inverse = vectors[rotations[i].frequencies];
            const float scale = rotations[i].scale;
            float* out = step.rotations[i].data() + begin * inverse.size() * 2;
            for (int64_t row = begin; row < end; ++row)
                for (float f : inverse) {
                    const float angle = static_cast<float>(step.positions[row]) * f;
                    *out++ = std::cos(angle) * scale;
                    *out++ = std::sin(angle) * scale;
                }
        }
        team.barrier();
        for (size_t i = 0; i < operations.size(); ++i) {
            operations[i]->run(kernels, step, team);
            if (i + 1 < operations.size()) team.barrier();
        }
    });
}

}  // namespace localllm
