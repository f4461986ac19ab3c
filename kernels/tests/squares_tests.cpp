#include <algorithm>
#include <cmath>
#include <memory>

#include "runtime/operations.h"
#include "runtime/program.h"
#include "tests/testing.h"

namespace localllm {

namespace {

// A program whose first buffer holds rows of a table; its float weights are drawn and kept.
struct Net {
    Program program;
    Random random;
    Exact<float> embeddings;
    std::vector<Exact<float>> values;  // of the weights

    Net(int threads, uint64_t seed, int vocabulary, int width)
        : program(threads), random(seed), embeddings(normals(random, static_cast<size_t>(vocabulary) * width)) {
        program.widths = {width};
        auto embed = std::make_unique<Embed>();
        embed->out = 0;
        embed->scale = 1.0f;
        embed->table = {Type::F32, vocabulary, width, reinterpret_cast<const uint8_t*>(embeddings.data())};
        program.add(std::move(embed));
    }
    int buffer(int width) {
        program.widths.push_back(width);
        return static_cast<int>(program.widths.size()) - 1;
    }
    const PackedMatrix* weight(int matrices, int rows, int cols) {
        values.push_back(normals(random, static_cast<size_t>(matrices) * rows * cols, 0.2f));
        const auto* data = reinterpret_cast<const uint8_t*>(values.back().data());
        return &program.weights[program.add_weight({Type::F32, matrices, rows, cols}, data)];
    }
    // Two weights on one input.
    Linear& linear(int x, int rows) {
        auto op = std::make_unique<Linear>();
        op->x = x;
        op->accumulate = false;
        for (int i = 0; i < 2; ++i) op->targets.push_back({weight(1, rows, program.widths[x]), buffer(rows), nullptr});
        return add(std::move(op));
    }
    // Its weights' values are the last four: of the router, gate, up and down.
    Experts& experts(int x, int hidden, int count, int used) {
        const int width = program.widths[x];
        auto op = std::make_unique<Experts>();
        op->x = x;
        op->out = buffer(width);
        op->used = used;
        op->normalise = true;
        op->scale = 1.0f;
        op->kind = Activation::silu;
        op->router = weight(1, count, width);
        op->gate = weight(count, hidden, width);
        op->up = weight(count, hidden, width);
        op->down = weight(count, width, hidden);
        return add(std::move(op));
    }
    template <class Op>
    Op& add(std::unique_ptr<Op> op) {
        Op& added = *op;
        program.add(std::move(op));
        return added;
    }
};

double square(float x) {
    return static_cast<double>(x) * x;
}

}  // namespace

// The squares of what weights are multiplied with: behind a norm, of a linear's selected rows, and of every expert's
// own rows; the same numbers with any number of threads.
void test_squares() {
    constexpr int rows = 21, width = 48, hidden = 32, count = 3, vocabulary = 30;
    std::vector<double> one_thread;
    for (int threads : {1, 4}) {
        Net net(threads, 5, vocabulary, width);
        Program& program = net.program;
        const Exact<float> scale = normals(net.random, width);
        Linear& normed = net.linear(0, hidden);
        normed.norm = scale.data();
        normed.eps = 1e-5f;
        const Experts& mixture = net.experts(0, hidden, count, count);  // all of them used: no routing
        const float *gates = net.values[3].data(), *ups = net.values[4].data();
        auto select = std::make_unique<Select>();
        select->x = 0;
        select->out = net.buffer(width);
        select->width = width;
        const int chosen = net.add(std::move(select)).out;
        const Linear& head = net.linear(chosen, hidden);

        Exact<int32_t> tokens(rows), selected(2);
        for (int32_t& token : tokens) token = net.random.below(vocabulary);
        selected[0] = 3;
        selected[1] = 20;
        auto run = [&](int from, int to) {
            Step step;
            step.rows = to - from;
            step.tokens = tokens.data() + from;
            step.selected = selected.data();
            step.selected_rows = from == 0 && to == rows ? 2 : 0;
            program.run(step);
        };
        run(0, rows);
        check(!program.squares, "squares were collected that nobody asked for");
        program.collect_squares();
        run(0, rows);

        std::vector<double> plain(width), behind_norm(width), of_selected(width), inner(count * hidden);
        for (int row = 0; row < rows; ++row) {
            const float* x = net.embeddings.data() + tokens[row] * width;
            double mean = 0;
            for (int i = 0; i < width; ++i) mean += square(x[i]) / width;
            for (int i = 0; i < width; ++i) {
                plain[i] += square(x[i]);
                behind_norm[i] += square(x[i]) / (mean + 1e-5) * square(scale[i]);
                of_selected[i] += row == selected[0] || row == selected[1] ? square(x[i]) : 0;
            }
            for (int unit = 0; unit < count * hidden; ++unit) {
                double g = 0, u = 0;
                for (int i = 0; i < width; ++i) {
                    g += static_cast<double>(gates[unit * width + i]) * x[i];
                    u += static_cast<double>(ups[unit * width + i]) * x[i];
                }
                const double h = g / (1 + std::exp(-g)) * u;
                inner[unit] += h * h;
            }
        }
        auto expect = [&](const PackedMatrix* of, const std::vector<double>& sums, int seen, const char* what) {
            const InputSquares& found = program.squares->at(of);
            check(found.rows == std::vector<int64_t>(of->matrices, seen), "%s: another number of rows", what);
            for (size_t i = 0; i < found.sums.size(); ++i)
                check(std::abs(found.sums[i] - sums[i % sums.size()]) <= 1e-5 * sums[i % sums.size()],
                      "%s: %g where %g was expected, %d threads", what, found.sums[i], sums[i % sums.size()], threads);
        };
        for (const auto& target : normed.targets) expect(target.weight, behind_norm, rows, "behind a norm");
        expect(mixture.router, plain, rows, "router");
        expect(mixture.gate, plain, rows, "gates");
        expect(mixture.up, plain, rows, "what they let through");
        expect(mixture.down, inner, rows, "down");
        expect(head.targets[0].weight, of_selected, 2, "selected rows");
        if (threads == 1)
            one_thread = program.squares->at(mixture.down).sums;
        else
            check(one_thread == program.squares->at(mixture.down).sums, "the sums depend on the threads");

        run(0, 1);  // a single row is prepared by every thread for itself
        run(1, rows);
        for (std::vector<double>* sums : {&behind_norm, &inner})
            for (double& sum : *sums) sum *= 2;
        for (const auto& target : normed.targets) expect(target.weight, behind_norm, 2 * rows, "the same rows again");
        expect(mixture.down, inner, 2 * rows, "down, the same rows again");
        program.collect_squares();
        check(program.squares->at(mixture.down).sums[0] == 0, "collecting did not begin from zero");
    }
}

// With fewer experts used than there are, an expert has the rows that were sent to it, and only those.
void test_squares_of_routed_rows() {
    constexpr int rows = 40, width = 32, hidden = 16, count = 5, used = 2;
    Net net(3, 9, rows, width);
    Program& program = net.program;
    const Experts& mixture = net.experts(0, hidden, count, used);
    const float* routes = net.values[0].data();
    Exact<int32_t> tokens(rows);
    std::vector<double> sums(count * width);
    std::vector<int64_t> seen(count);
    for (int row = 0; row < rows; ++row) {
        tokens[row] = row;
        const float* x = net.embeddings.data() + row * width;
        std::vector<std::pair<double, int>> scores(count);
        for (int e = 0; e < count; ++e) {
            scores[e].second = e;
            for (int i = 0; i < width; ++i) scores[e].first += static_cast<double>(routes[e * width + i]) * x[i];
        }
        std::sort(scores.rbegin(), scores.rend());
        for (int place = 0; place < used; ++place) {
            const int e = scores[place].second;
            ++seen[e];
            for (int i = 0; i < width; ++i) sums[e * width + i] += square(x[i]);
        }
    }
    program.collect_squares();
    Step step;
    step.rows = rows;
    step.tokens = tokens.data();
    program.run(step);
    check(program.squares->at(mixture.router).rows[0] == rows, "the router: another number of rows");
    check(program.squares->at(mixture.gate).rows == seen, "an expert's gate has other rows than were sent to it");
    check(program.squares->at(mixture.down).rows == seen, "an expert has other rows than were sent to it");
    const std::vector<double>& found = program.squares->at(mixture.gate).sums;
    for (size_t i = 0; i < sums.size(); ++i)
        check(std::abs(found[i] - sums[i]) <= 1e-9 * sums[i], "an expert's sum is %g, not %g", found[i], sums[i]);
}

}  // namespace localllm
