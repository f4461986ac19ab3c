// The operations of encoders in a program: texts of a step see themselves alone.
#include <cmath>
#include <memory>

#include "runtime/operations.h"
#include "tests/testing.h"

namespace localllm {

namespace {

constexpr int kHeads = 3, kHeadDim = 32, kWidth = kHeads * kHeadDim, kTokens = 11, kPositions = 70;

// Embeddings, layer norm, attention both ways, an activated linear: the result of every row of some texts.
class Encoder {
  public:
    Encoder(int threads, const Kernels& kernels) : program_(threads, kernels) {
        Random random(21);
        program_.widths = {kWidth, kWidth, kWidth, kWidth};
        const int sizes[] = {kTokens, kPositions, 1};
        for (int rows : sizes) tables_.push_back(random_weight(random, Type::F32, static_cast<int64_t>(rows) * kWidth));
        embed(0, Index::token, kTokens);
        embed(1, Index::position, kPositions);
        add(0, 1);
        embed(1, Index::segment, 1);
        add(0, 1);
        for (int i = 0; i < 2; ++i) {
            program_.vectors.emplace_back(kWidth);
            for (float& x : program_.vectors.back()) x = random.normal();
        }
        auto norm = std::make_unique<LayerNorm>();
        norm->out = norm->x = 0;
        norm->width = kWidth;
        norm->eps = 1e-12f;
        norm->weight = program_.vectors[0].data();
        norm->bias = program_.vectors[1].data();
        program_.add(std::move(norm));
        auto attention = std::make_unique<AttentionBothWays>();
        attention->out = 1;
        attention->q = attention->k = attention->v = 0;
        attention->heads = attention->kv_heads = kHeads;
        attention->head_dim = kHeadDim;
        attention->scale = 0.2f;
        program_.add(std::move(attention));
        const Exact<uint8_t> data = random_weight(random, Type::F32, int64_t{kWidth} * kWidth);
        const int weight = program_.add_weight({Type::F32, 1, kWidth, kWidth}, data.data());
        auto linear = std::make_unique<Linear>();
        linear->x = 1;
        linear->accumulate = false;
        linear->targets.push_back({&program_.weights[weight], 2, program_.vectors[1].data()});
        linear->activated = true;
        linear->kind = Activation::gelu_erf;
        program_.add(std::move(linear));
        auto act = std::make_unique<Act>();
        act->out = 3;
        act->x = 2;
        act->width = kWidth;
        act->kind = Activation::silu;
        program_.add(std::move(act));
    }

    std::vector<float> run(const std::vector<std::vector<int32_t>>& texts) {
        Step step;
        std::vector<int32_t> all;
        for (const auto& text : texts) {
            step.spans.push_back({static_cast<int>(all.size()), static_cast<int>(text.size()), 0, nullptr});
            for (size_t i = 0; i < text.size(); ++i) step.positions.push_back(static_cast<int32_t>(i));
            all.insert(all.end(), text.begin(), text.end());
        }
        step.rows = static_cast<int>(all.size());
        step.tokens = all.data();
        program_.run(step);
        return {step.buffers[3], step.buffers[3] + all.size() * kWidth};
    }

  private:
    Program program_;
    std::vector<Exact<uint8_t>> tables_;
    size_t embeds_ = 0;

    void embed(int out, Index index, int rows) {
        auto op = std::make_unique<Embed>();
        op->out = out;
        op->scale = 1.0f;
        op->index = index;
        op->table = {Type::F32, rows, kWidth, tables_[embeds_++].data()};
        program_.add(std::move(op));
    }
    void add(int to, int from) {
        auto op = std::make_unique<Add>();
        op->out = op->a = to;
        op->b = from;
        op->width = kWidth;
        program_.add(std::move(op));
    }
};

}  // namespace

// The same bits with any number of threads and with each text on its own.
void test_encoder() {
    for (const Kernels* kernels : available_kernels()) {
        Random random(22);
        std::vector<std::vector<int32_t>> texts;
        for (int length : {1, 5, kPositions, 32, 3, 33}) {
            texts.emplace_back(length);
            for (int32_t& token : texts.back()) token = random.below(kTokens);
        }
        const std::vector<float> together = Encoder(1, *kernels).run(texts);
        for (float x : together) check(std::isfinite(x), "%s encoder: not finite", kernels->name);
        check(together == Encoder(3, *kernels).run(texts), "%s encoder differs with 3 threads", kernels->name);
        std::vector<float> alone;
        Encoder encoder(2, *kernels);
        for (const auto& text : texts) {
            const std::vector<float> rows = encoder.run({text});
            alone.insert(alone.end(), rows.begin(), rows.end());
        }
        check(together == alone, "%s encoder: texts together are not texts alone", kernels->name);
        texts[2][kPositions - 1] = (texts[2][kPositions - 1] + 1) % kTokens;
        const std::vector<float> other = encoder.run(texts);
        check(!std::equal(other.begin() + 6 * kWidth, other.begin() + 7 * kWidth, together.begin() + 6 * kWidth),
              "%s encoder: the first token does not see the last", kernels->name);
        check(std::equal(other.begin(), other.begin() + 6 * kWidth, together.begin()),
              "%s encoder: a text sees another", kernels->name);
    }
}

}  // namespace localllm
