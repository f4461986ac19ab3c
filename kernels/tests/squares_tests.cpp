#include <algorithm>
#include <cmath>
#include <memory>

#include "runtime/operations.h"
#include "runtime/program.h"
#include "tests/testing.h"

namespace localllm {

// The squares of what weights are multiplied with: behind a norm, of a linear's selected rows, and of every expert's
// own rows; the same numbers with any number of threads.
void test_squares() {
    constexpr int rows = 21, width = 48, hidden = 32, count = 3, vocabulary = 30;
    InputSquares one_thread;
    for (int threads : {1, 4}) {
        Random random(5);
        Program program(threads);
        program.widths = {width, hidden, width, width};  // embedded, projected, mixed, selected
        const Exact<float> embeddings = normals(random, vocabulary * width), scale = normals(random, width);
        std::vector<Exact<float>> values;
        auto weight = [&](int matrices, int height, int cols) {
            values.push_back(normals(random, static_cast<size_t>(matrices) * height * cols, 0.2f));
            const auto* data = reinterpret_cast<const uint8_t*>(values.back().data());
            return &program.weights[program.add_weight({Type::F32, matrices, height, cols}, data)];
        };
        auto linear = [&](int x, int out, int height) {
            auto op = std::make_unique<Linear>();
            op->x = x;
            op->accumulate = false;
            for (int i = 0; i < 2; ++i) op->targets.push_back({weight(1, height, program.widths[x]), out, nullptr});
            return op;
        };
        auto embed = std::make_unique<Embed>();
        embed->out = 0;
        embed->scale = 1.0f;
        embed->table = {Type::F32, vocabulary, width, reinterpret_cast<const uint8_t*>(embeddings.data())};
        program.add(std::move(embed));
        auto normed = linear(0, 1, hidden);
        normed->norm = scale.data();
        normed->eps = 1e-5f;
        const auto normed_weights = normed->targets;
        program.add(std::move(normed));
        auto mixture = experts({2, 0, width, hidden, count, count, true}, weight);  // all of them used: no routing
        const PackedMatrix *router = mixture->router, *gate = mixture->gate, *up = mixture->up, *down = mixture->down;
        const float *gates = values[values.size() - 3].data(), *ups = values[values.size() - 2].data();
        program.add(std::move(mixture));
        auto select = std::make_unique<Select>();
        select->out = 3;
        select->x = 0;
        select->width = width;
        program.add(std::move(select));
        auto head = linear(3, 1, hidden);
        const PackedMatrix* head_weight = head->targets[0].weight;
        program.add(std::move(head));

        Exact<int32_t> tokens(rows), selected(2);
        for (int32_t& token : tokens) token = random.below(vocabulary);
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
            const float* x = embeddings.data() + tokens[row] * width;
            double mean = 0;
            for (int i = 0; i < width; ++i) mean += static_cast<double>(x[i]) * x[i] / width;
            for (int i = 0; i < width; ++i) {
                const double square = static_cast<double>(x[i]) * x[i];
                plain[i] += square;
                behind_norm[i] += square / (mean + 1e-5) * scale[i] * scale[i];
                of_selected[i] += row == selected[0] || row == selected[1] ? square : 0;
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
        for (const auto& target : normed_weights) expect(target.weight, behind_norm, rows, "behind a norm");
        expect(router, plain, rows, "router");
        expect(gate, plain, rows, "gates");
        expect(up, plain, rows, "what they let through");
        expect(down, inner, rows, "down");
        expect(head_weight, of_selected, 2, "selected rows");
        if (threads == 1)
            one_thread = program.squares->at(down);
        else
            check(one_thread.sums == program.squares->at(down).sums, "the sums depend on the threads");

        run(0, 1);  // a single row is prepared by every thread for itself
        run(1, rows);
        for (std::vector<double>* sums : {&behind_norm, &inner})
            for (double& sum : *sums) sum *= 2;
        for (const auto& target : normed_weights) expect(target.weight, behind_norm, 2 * rows, "the same rows again");
        expect(down, inner, 2 * rows, "down, the same rows again");
        program.collect_squares();
        check(program.squares->at(down).sums[0] == 0, "collecting did not begin from zero");
    }
}

// With fewer experts used than there are, an expert has the rows that were sent to it, and only those.
void test_squares_of_routed_rows() {
    constexpr int rows = 40, width = 32, hidden = 16, count = 5, used = 2;
    Random random(9);
    Program program(3);
    program.widths = {width, width};
    std::vector<Exact<float>> values;
    auto weight = [&](int matrices, int height, int cols) {
        values.push_back(normals(random, static_cast<size_t>(matrices) * height * cols));
        const auto* data = reinterpret_cast<const uint8_t*>(values.back().data());
        return &program.weights[program.add_weight({Type::F32, matrices, height, cols}, data)];
    };
    const Exact<float> embeddings = normals(random, rows * width);
    auto embed = std::make_unique<Embed>();
    embed->out = 0;
    embed->scale = 1.0f;
    embed->table = {Type::F32, rows, width, reinterpret_cast<const uint8_t*>(embeddings.data())};
    program.add(std::move(embed));
    auto mixture = experts({1, 0, width, hidden, count, used, true}, weight);
    const PackedMatrix *router = mixture->router, *gate = mixture->gate, *down = mixture->down;
    const float* routes = values[values.size() - 4].data();
    program.add(std::move(mixture));
    Exact<int32_t> tokens(rows);
    std::vector<double> sums(count * width);
    std::vector<int64_t> seen(count);
    for (int row = 0; row < rows; ++row) {
        tokens[row] = row;
        const float* x = embeddings.data() + row * width;
        std::vector<std::pair<double, int>> scores(count);
        for (int e = 0; e < count; ++e) {
            scores[e].second = e;
            for (int i = 0; i < width; ++i) scores[e].first += static_cast<double>(routes[e * width + i]) * x[i];
        }
        std::sort(scores.rbegin(), scores.rend());
        for (int place = 0; place < used; ++place) {
            const int e = scores[place].second;
            ++seen[e];
            for (int i = 0; i < width; ++i) sums[e * width + i] += static_cast<double>(x[i]) * x[i];
        }
    }
    program.collect_squares();
    Step step;
    step.rows = rows;
    step.tokens = tokens.data();
    program.run(step);
    check(program.squares->at(router).rows[0] == rows, "the router: another number of rows");
    check(program.squares->at(gate).rows == seen, "an expert's gate has other rows than were sent to it");
    check(program.squares->at(down).rows == seen, "an expert has other rows than were sent to it");
    const std::vector<double>& found = program.squares->at(gate).sums;
    for (size_t i = 0; i < sums.size(); ++i)
        check(std::abs(found[i] - sums[i]) <= 1e-9 * sums[i], "an expert's sum is %g, not %g", found[i], sums[i]);
}

}  // namespace localllm
