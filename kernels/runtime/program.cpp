#include "runtime/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/operations.h"

namespace localllm {

int Program::add_weight(PackedMatrix weight, const uint8_t* data) {
    weight.data = weight_memory.take(weight.bytes());
    const int64_t panels = weight.panels, total = panels * weight.matrices;
    std::atomic<int64_t> next{0};
    pool.run([&](Team&) {
        for (int64_t i = next.fetch_add(1); i < total; i = next.fetch_add(1))
            pack_panel(data, weight, static_cast<int>(i / panels), static_cast<int>(i % panels),
                       weight.data + i * weight.panel_bytes);
    });
    weights.push_back(weight);
    return static_cast<int>(weights.size()) - 1;
}

int Program::add_packed(PackedMatrix weight, const uint8_t* packed) {
    weight.data = const_cast<uint8_t*>(packed);  // only ever read
    weights.push_back(weight);
    return static_cast<int>(weights.size()) - 1;
}

namespace {

// Packs what lies in [from, from + part.size()) of the file into `part`, which is zero.
void pack_part(const Program::Source& source, int64_t from, std::vector<uint8_t>& part) {
    const PackedMatrix& shape = source.shape;
    const int64_t bytes = static_cast<int64_t>(shape.panel_bytes), size = static_cast<int64_t>(part.size());
    const int64_t total = static_cast<int64_t>(shape.panels) * shape.matrices;
    const int64_t start = from - source.offset;  // in the weight; before it where negative
    std::vector<uint8_t> whole;
    for (int64_t i = std::max<int64_t>(0, start / bytes); i < total && i * bytes < start + size; ++i) {
        const int64_t at = i * bytes - start;
        auto pack = [&](uint8_t* out) {
            pack_panel(source.data, shape, static_cast<int>(i / shape.panels), static_cast<int>(i % shape.panels), out);
        };
        if (at >= 0 && at + bytes <= size) {
            pack(part.data() + at);
        } else {  // a panel that lies in two parts is packed for both
            whole.assign(shape.panel_bytes, 0);
            pack(whole.data());
            const int64_t first = std::max<int64_t>(0, -at), last = std::min(bytes, size - at);
            std::copy(whole.begin() + first, whole.begin() + last, part.begin() + at + first);
        }
    }
}

// Adds a row to the runs of rows that use an adapter, if it does.
void append_row(std::vector<AdaptedRows>& runs, const Adapter* adapter, int row) {
    if (!adapter) return;
    const bool goes_on =
        !runs.empty() && runs.back().adapter == adapter && runs.back().start + runs.back().count == row;
    if (goes_on)
        ++runs.back().count;
    else
        runs.push_back({adapter, row, 1});
}

// Lists which rows of the batch use an adapter, and which of the selected ones.
void find_adapted(Step& step) {
    if (std::none_of(step.spans.begin(), step.spans.end(), [](const Span& span) { return span.adapter; })) return;
    std::vector<const Adapter*> of_row;
    for (const Span& span : step.spans) of_row.insert(of_row.end(), span.length, span.adapter);
    for (int row = 0; row < step.rows; ++row) append_row(step.adapted, of_row[row], row);
    for (int i = 0; i < step.selected_rows; ++i) append_row(step.adapted_selected, of_row[step.selected[i]], i);
}

// What the words [first, last) of some memory add to its checksum; `words` is where the first of them lies.
uint64_t share_of_checksum(const uint8_t* words, int64_t first, int64_t last) {
    uint64_t sum = 0;
    for (int64_t i = first; i < last; ++i) {
        uint64_t word;
        std::memcpy(&word, words + 8 * (i - first), 8);
        sum += word * static_cast<uint64_t>(2 * i + 1);
    }
    return sum;
}

}  // namespace

int Program::pack_weights(const std::vector<Source>& sources, const Write& write, std::vector<uint64_t>& checksums) {
    checksums.assign(sources.size(), 0);
    if (sources.empty()) return 0;
    const int64_t piece = kHugePage, begin = sources.front().offset;
    const int64_t end = sources.back().offset + static_cast<int64_t>(sources.back().shape.bytes());
    std::atomic<int64_t> next{begin / piece};
    std::atomic<int> error{0};
    std::vector<std::atomic<uint64_t>> sums(sources.size());
    pool.run([&](Team&) {
        std::vector<uint8_t> part;
        for (int64_t at = next.fetch_add(1) * piece; at < end && !error; at = next.fetch_add(1) * piece) {
            const int64_t from = std::max(at, begin);
            part.assign(static_cast<size_t>(at + piece - from), 0);
            for (size_t i = 0; i < sources.size(); ++i) {
                const Source& source = sources[i];
                const int64_t bytes = static_cast<int64_t>(source.shape.bytes());
                const int64_t first = std::max(from, source.offset), last = std::min(at + piece, source.offset + bytes);
                if (first >= last) continue;
                pack_part(source, from, part);
                sums[i] += share_of_checksum(part.data() + (first - from), (first - source.offset) / 8,
                                             (last - source.offset) / 8);
            }
            const int failed = write(part.data(), part.size(), from);
            if (failed) error = failed;
        }
    });
    std::copy(sums.begin(), sums.end(), checksums.begin());
    return error;
}

uint64_t Program::checksum(const uint8_t* data, size_t bytes) {
    std::atomic<uint64_t> total{0};
    pool.run([&](Team& team) {
        const auto [begin, end] = team.share(static_cast<int64_t>(bytes / 8));
        total += share_of_checksum(data + 8 * begin, begin, end);
    });
    return total;
}

int Program::add_adapter(const std::vector<AdapterSource>& sources) {
    auto adapter = std::make_unique<Adapter>();
    struct Job {
        PackedMatrix* matrix;
        const float* data;
    };
    std::vector<Job> jobs;
    size_t bytes = 0;
    int most_panels = 0;
    for (const AdapterSource& source : sources) {
        const PackedMatrix& weight = weights[source.weight];
        const auto made = adapter->terms.emplace(
            &weight, LowRank{{Type::F32, 1, source.rank, weight.cols}, {Type::F32, 1, weight.rows, source.rank}});
        LowRank& term = made.first->second;
        for (const Job& job : {Job{&term.a, source.a}, Job{&term.b, source.b}}) {
            bytes += job.matrix->bytes();
            most_panels = std::max(most_panels, job.matrix->panels);
            jobs.push_back(job);
        }
    }
    adapter->memory = Memory(bytes);
    adapter->memory.use_huge_pages();
    uint8_t* at = adapter->memory.data();
    for (const Job& job : jobs) {
        job.matrix->data = at;
        at += job.matrix->bytes();
    }
    pool.run([&](Team& team) {
        const auto [begin, end] = team.share(static_cast<int64_t>(jobs.size()) * most_panels);
        for (int64_t i = begin; i < end; ++i) {
            const auto& [matrix, data] = jobs[i / most_panels];
            const int panel = static_cast<int>(i % most_panels);
            if (panel < matrix->panels)
                pack_panel(reinterpret_cast<const uint8_t*>(data), *matrix, 0, panel,
                           matrix->data + panel * matrix->panel_bytes);
        }
    });
    adapters.emplace(adapters_made_, std::move(adapter));
    return adapters_made_++;
}

void Program::collect_squares() {
    squares.emplace();
    begin_squares();
}

void Program::begin_squares() {
    for (const PackedMatrix& weight : weights) {
        InputSquares& sums = (*squares)[&weight];  // which stay, where there are some
        sums.sums.resize(static_cast<size_t>(weight.matrices) * weight.cols);
        sums.rows.resize(weight.matrices);
    }
}

void Program::add(std::unique_ptr<Operation> operation) {
    if (dynamic_cast<const Select*>(operation.get())) selected_ = true;
    operation->on_selected = selected_;
    operation->counter = 2 * static_cast<int>(operations.size());
    operations.push_back(std::move(operation));
    counters_ = std::make_unique<std::atomic<int>[]>(2 * operations.size());
}

void Program::run(Step& step, const Output* until) {
    size_t scratch = 0, floats = 0;
    const size_t count = until ? until->operations : operations.size();
    step.threads = pool.size();
    if (squares) begin_squares();
    step.squares = squares ? &*squares : nullptr;
    find_adapted(step);
    for (size_t i = 0; i < count; ++i) scratch = std::max(scratch, operations[i]->scratch(kernels, step));
    if (scratch > scratch_.bytes()) scratch_ = Memory(scratch);
    const auto size = [&](size_t buffer) { return static_cast<size_t>(widths[buffer]) * step.rows; };
    const auto room = [&](size_t buffer) {  // in the arena: none for outputs
        for (const Output& output : outputs)
            if (static_cast<size_t>(output.buffer) == buffer) return size_t{0};
        return align64(size(buffer));
    };
    for (size_t i = 0; i < widths.size(); ++i) floats += room(i);
    if (floats * sizeof(float) > arena_.bytes()) arena_ = Memory(floats * sizeof(float));
    step.scratch = scratch_.data();
    step.buffers.clear();
    floats = 0;
    for (size_t i = 0; i < widths.size(); ++i) {
        step.buffers.push_back(arena_.as<float>() + floats);
        floats += room(i);
    }
    step.outputs.clear();
    for (const Output& output : outputs) {
        // Untouched where rows are not selected, or the output is not computed.
        step.outputs.emplace_back(new float[size(output.buffer)]);
        step.buffers[output.buffer] = step.outputs.back().get();
    }
    for (size_t i = 0; i < 2 * count; ++i) counters_[i].store(0, std::memory_order_relaxed);
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
        for (size_t i = 0; i < count; ++i) {
            operations[i]->run(kernels, step, team);
            if (i + 1 < count) team.barrier();
        }
    });
}

}  // namespace localllm
