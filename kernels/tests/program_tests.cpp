// Programs of all operations: the same results whatever runs beside them.
#include <algorithm>
#include <cmath>
#include <memory>

#include "runtime/operations.h"
#include "runtime/program.h"
#include "tests/testing.h"

namespace localllm {

namespace {

struct ExpertsShape {
    int out, x, width, hidden, count, used;
    bool normalise;
};

// A mixture whose weights come from `weight(matrices, rows, cols)`.
template <class Weight>
std::unique_ptr<Experts> experts(const ExpertsShape& shape, Weight weight) {
    auto made = std::make_unique<Experts>();
    made->out = shape.out;
    made->x = shape.x;
    made->used = shape.used;
    made->normalise = shape.normalise;
    made->scale = 1.0f;
    made->kind = Activation::silu;
    made->router = weight(1, shape.count, shape.width);
    made->gate = weight(shape.count, shape.hidden, shape.width);
    made->up = weight(shape.count, shape.hidden, shape.width);
    made->down = weight(shape.count, shape.width, shape.hidden);
    return made;
}

// A random small transformer: every operation, types and shapes drawn.
class Model {
  public:
    Model(uint64_t seed, int threads, const Kernels& kernels) : program_(threads, kernels), random_(seed) {
        width = 256;
        vocabulary = random_.between(3, 20);
        kv_heads = random_.between(1, 2);
        heads = kv_heads * random_.between(1, 4);
        head_dim = 16 * random_.between(1, 4);
        layers = random_.between(1, 2);
        const int hidden = 256 * random_.between(1, 2), pairs = head_dim / 2 - random_.below(8);
        std::vector<float> inverse(pairs);
        for (int i = 0; i < pairs; ++i) inverse[i] = std::pow(1e4f, -static_cast<float>(i) / static_cast<float>(pairs));
        program_.vectors.push_back(inverse);
        program_.rotations.push_back({0, 1.0f});

        const Type type = draw();
        tables_.push_back(random_weight(random_, type, static_cast<int64_t>(vocabulary) * width));
        const int x = buffer(width), normed = buffer(width), branch = buffer(width);
        auto embed = std::make_unique<Embed>();
        embed->out = x;
        embed->scale = 3.0f;
        embed->table = {type, vocabulary, width, tables_.back().data()};
        program_.add(std::move(embed));
        const int q = buffer(heads * head_dim), k = buffer(kv_heads * head_dim), v = buffer(kv_heads * head_dim);
        const int mixed = buffer(heads * head_dim), gate = buffer(hidden), up = buffer(hidden);
        for (int layer = 0; layer < layers; ++layer) {
            // What may be fused is, in half of the layers.
            const bool fused = random_.below(2) != 0;
            auto project = linear_operation(
                x, {{heads * head_dim, q}, {kv_heads * head_dim, k}, {kv_heads * head_dim, v}}, width, false);
            auto attention = std::make_unique<Attention>();
            const Rotation rotation{0, pairs, random_.below(2) != 0};
            if (fused) {
                project->norm = scales(width);
                project->eps = 1e-6f;
                attention->q_norm = {scales(head_dim), 1e-6f};
                attention->rotation = rotation;
                program_.add(std::move(project));
            } else {
                norm(normed, x, width, width);
                project->x = normed;
                program_.add(std::move(project));
                norm(q, q, heads * head_dim, head_dim);
                rope(q, heads, rotation);
                rope(k, kv_heads, rotation);
            }
            attention->out = mixed;
            attention->q = q;
            attention->k = k;
            attention->v = v;
            attention->layer = layer;
            attention->heads = heads;
            attention->kv_heads = kv_heads;
            attention->head_dim = head_dim;
            attention->window = random_.below(2) ? 0 : random_.between(1, 40);
            attention->scale = 0.2f;
            attention->softcap = random_.below(2) ? 0.0f : 20.0f;
            program_.add(std::move(attention));
            linear(mixed, {{width, x}}, heads * head_dim, true);
            norm(normed, x, width, width);
            const int kind = random_.below(3);
            if (kind == 0) {
                auto gated = linear_operation(normed, {{hidden, gate}, {hidden, gate}}, width, false);
                gated->gated = true;
                gated->kind = Activation::silu;
                program_.add(std::move(gated));
                linear(gate, {{width, branch}}, hidden, false);
            } else if (kind == 1) {
                linear(normed, {{hidden, gate}, {hidden, up}}, width, false);
                auto act = std::make_unique<GatedAct>();
                act->out = gate;
                act->gate = gate;
                act->up = up;
                act->width = hidden;
                act->kind = Activation::gelu;
                program_.add(std::move(act));
                linear(gate, {{width, branch}}, hidden, false);
            } else {
                const int count = random_.between(2, 9), used = random_.between(1, count);
                const bool normalise = random_.below(2) != 0;
                program_.add(experts({branch, normed, width, hidden, count, used, normalise},
                                     [&](int matrices, int rows, int cols) { return weight(matrices, rows, cols); }));
            }
            auto add = std::make_unique<Add>();
            add->out = add->a = x;
            add->b = branch;
            add->width = width;
            program_.add(std::move(add));
        }
        const int chosen = buffer(width);
        logits_ = buffer(vocabulary);
        auto select = std::make_unique<Select>();
        select->out = chosen;
        select->x = x;
        select->width = width;
        program_.add(std::move(select));
        norm(chosen, chosen, width, width);
        linear(chosen, {{vocabulary, logits_}}, width, false);
        auto cap = std::make_unique<Softcap>();
        cap->x = logits_;
        cap->width = vocabulary;
        cap->cap = 30.0f;
        program_.add(std::move(cap));
        if (random_.below(2)) program_.add_output("logits", logits_);
        for (int i = 0; i < 2; ++i) adapt();
    }

    int width, vocabulary, kv_heads, heads, head_dim, layers;

    // Appends `tokens` to each sequence of `pasts`; returns the logits of every row. Adapters are 0, 1, and -1 for
    // none.
    std::vector<float> step(const Cache& cache, const std::vector<Exact<int32_t>>& tables,
                            const std::vector<int>& pasts, const std::vector<std::vector<int32_t>>& tokens,
                            const std::vector<int>& adapters) {
        Step s;
        s.cache = &cache;
        std::vector<int32_t> all;
        for (size_t i = 0; i < tokens.size(); ++i) {
            s.spans.push_back({static_cast<int>(all.size()), static_cast<int>(tokens[i].size()), pasts[i],
                               tables[i].data(), adapters[i] < 0 ? nullptr : program_.adapters.at(adapters[i]).get()});
            for (size_t j = 0; j < tokens[i].size(); ++j) s.positions.push_back(pasts[i] + static_cast<int32_t>(j));
            all.insert(all.end(), tokens[i].begin(), tokens[i].end());
        }
        Exact<int32_t> ids(all.size()), selected(all.size());
        std::copy(all.begin(), all.end(), ids.begin());
        for (size_t i = 0; i < all.size(); ++i) selected[i] = static_cast<int32_t>(i);
        s.rows = s.selected_rows = static_cast<int>(all.size());
        s.tokens = ids.data();
        s.selected = selected.data();
        program_.run(s);
        return {s.buffers[logits_], s.buffers[logits_] + all.size() * vocabulary};
    }

  private:
    Program program_;
    Random random_;
    std::vector<Exact<uint8_t>> tables_;
    std::vector<int> adaptable_;  // weights of linears
    int logits_ = 0;

    Type draw() { return static_cast<Type>(random_.below(static_cast<int>(Type::count))); }
    // An adapter of some of the linears.
    void adapt() {
        std::vector<Exact<float>> values;
        std::vector<Program::AdapterSource> sources;
        for (int id : adaptable_) {
            if (random_.below(4) == 0) continue;
            const PackedMatrix& w = program_.weights[id];
            const int rank = random_.between(1, 40);
            values.push_back(normals(random_, static_cast<size_t>(rank) * w.cols, 0.1f));
            values.push_back(normals(random_, static_cast<size_t>(rank) * w.rows, 0.1f));
            sources.push_back({id, rank, values[values.size() - 2].data(), values.back().data()});
        }
        program_.add_adapter(sources);
    }
    int buffer(int n) {
        program_.widths.push_back(n);
        return static_cast<int>(program_.widths.size()) - 1;
    }
    const PackedMatrix* weight(int matrices, int rows, int cols) {
        Type type = draw();
        if (cols % format(type).block) type = cols % 32 ? Type::F16 : Type::Q8_0;
        const Exact<uint8_t> data = random_weight(random_, type, static_cast<int64_t>(matrices) * rows * cols);
        return &program_.weights[program_.add_weight({type, matrices, rows, cols}, data.data())];
    }
    void norm(int out, int x, int n, int group) {
        auto op = std::make_unique<Norm>();
        op->out = out;
        op->x = x;
        op->width = n;
        op->group = group;
        op->eps = 1e-6f;
        op->weight = scales(group);
        program_.add(std::move(op));
    }
    const float* scales(int n) {
        std::vector<float> scale(n);
        for (float& w : scale) w = random_.uniform(0.5f, 1.5f);
        program_.vectors.push_back(std::move(scale));
        return program_.vectors.back().data();
    }
    void rope(int x, int count, Rotation rotation) {
        auto op = std::make_unique<Rope>();
        op->x = x;
        op->heads = count;
        op->head_dim = head_dim;
        op->rotation = rotation;
        program_.add(std::move(op));
    }
    void linear(int x, const std::vector<std::pair<int, int>>& targets, int cols, bool accumulate) {
        program_.add(linear_operation(x, targets, cols, accumulate));
    }
    std::unique_ptr<Linear> linear_operation(int x, const std::vector<std::pair<int, int>>& targets, int cols,
                                             bool accumulate) {
        auto op = std::make_unique<Linear>();
        op->x = x;
        op->accumulate = accumulate;
        for (const auto& [rows, out] : targets) {
            const PackedMatrix* w = weight(1, rows, cols);
            adaptable_.push_back(static_cast<int>(program_.weights.size()) - 1);
            const float* bias = nullptr;
            if (random_.below(2)) {
                std::vector<float> values(rows);
                for (float& b : values) b = random_.normal();
                program_.vectors.push_back(std::move(values));
                bias = program_.vectors.back().data();
            }
            op->targets.push_back({w, out, bias});
        }
        return op;
    }
};

}  // namespace

// Many rows, a router wider than the experts, one of which is used: the rows' activations for the router are what takes
// most of the scratch. The sanitizer build sees its end.
void test_experts_room() {
    constexpr int rows = 300, width = 2048, hidden = 32, count = 2;
    Random random(17);
    Program program(2);
    program.widths = {width, width};
    std::vector<Exact<uint8_t>> data;
    auto weight = [&](int matrices, int height, int cols) {
        data.push_back(random_weight(random, Type::F32, static_cast<int64_t>(matrices) * height * cols));
        return &program.weights[program.add_weight({Type::F32, matrices, height, cols}, data.back().data())];
    };
    program.add(experts({1, 0, width, hidden, count, 1, true}, weight));
    Step step;
    step.rows = rows;
    program.run(step);
    const float* out = step.buffers[1];
    check(std::all_of(out, out + rows * width, [](float y) { return y == 0; }), "the experts made something of zeros");
}

// Three steps of three sequences, two with an adapter each; the same bits with any number of threads and with each
// sequence on its own.
void test_programs() {
    for (const Kernels* kernels : available_kernels())
        for (uint64_t seed = 1; seed <= 8; ++seed)
            for (CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8}) {
                std::vector<float> first, alone;
                for (int threads : {1, 3, 0}) {  // 0: one thread, one sequence at a time
                    Model model(seed, std::max(threads, 1), *kernels);
                    Random random(seed + 100);
                    const Cache cache(model.layers, model.kv_heads, model.head_dim, 7, type);
                    std::vector<Exact<int32_t>> tables;
                    for (int i = 0; i < 3; ++i) {
                        tables.emplace_back(2);
                        tables[i][0] = 6 - i;
                        tables[i][1] = i;
                    }
                    std::vector<int> pasts(3, 0);
                    std::vector<float> all;
                    for (int round = 0; round < 3; ++round) {
                        std::vector<std::vector<int32_t>> tokens(3);
                        for (auto& part : tokens) {
                            part.resize(round == 0 ? random.between(1, 40) : random.between(1, 3));
                            for (int32_t& token : part) token = random.below(model.vocabulary);
                        }
                        if (threads > 0) {
                            const std::vector<float> rows = model.step(cache, tables, pasts, tokens, {0, -1, 1});
                            all.insert(all.end(), rows.begin(), rows.end());
                        } else {
                            for (int i = 0; i < 3; ++i) {
                                std::vector<Exact<int32_t>> table;
                                table.emplace_back(2);
                                std::copy(tables[i].begin(), tables[i].end(), table[0].begin());
                                const std::vector<float> rows =
                                    model.step(cache, table, {pasts[i]}, {tokens[i]}, {i == 1 ? -1 : i / 2});
                                all.insert(all.end(), rows.begin(), rows.end());
                            }
                        }
                        for (int i = 0; i < 3; ++i) pasts[i] += static_cast<int>(tokens[i].size());
                    }
                    for (float value : all)
                        check(std::isfinite(value), "%s program %d: a logit is not finite", kernels->name,
                              static_cast<int>(seed));
                    if (first.empty())
                        first = all;
                    else
                        check(first == all, "%s program %d differs with %d threads (0: alone)", kernels->name,
                              static_cast<int>(seed), threads);
                }
            }
}

// What comes after an output is not computed where that one alone is wanted.
void test_outputs() {
    struct Counting final : Operation {
        int runs = 0;
        int* counted = &runs;
        void run(const Kernels&, const Step&, Team& team) const override { *counted += team.index == 0; }
    };
    Program program(2);
    program.widths = {16, 16};
    std::vector<const Counting*> counting;
    for (int buffer : {0, 1}) {
        auto operation = std::make_unique<Counting>();
        counting.push_back(operation.get());
        program.add(std::move(operation));
        program.add_output(buffer ? "second" : "first", buffer);
    }
    Step step;
    step.rows = 1;
    program.run(step, &program.outputs[0]);
    check(counting[0]->runs == 1 && counting[1]->runs == 0, "what comes after an output was computed");
    program.run(step, &program.outputs[1]);
    program.run(step);
    check(counting[0]->runs == 3 && counting[1]->runs == 2, "what comes before an output was not computed");
}

}  // namespace localllm
