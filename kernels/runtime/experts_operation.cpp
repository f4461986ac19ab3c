// Mixture of experts, in phases with a barrier between them: each row is routed to its best experts, the rows are
// grouped by expert so that an expert's weights are read once, multiplied, and their weighted results added up. A slot
// is one row at one of its experts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "gemm/tiles.h"
#include "runtime/operations.h"

namespace localllm {

namespace {

// Where the parts of a step lie in the shared scratch.
struct ExpertsRoom {
    size_t scores, choices, shares, order, starts, hidden, result;
    size_t quants, floats, hidden_quants, hidden_floats, bytes;

    ExpertsRoom(int rows, int experts, int used, int k, int ffn) {
        const int64_t slots = static_cast<int64_t>(rows) * used;
        size_t at = 0;
        auto take = [&at](size_t size) {
            const size_t start = at;
            at += align64(size);
            return start;
        };
        scores = take(sizeof(float) * rows * experts);
        choices = take(sizeof(int32_t) * slots);
        shares = take(sizeof(float) * slots);
        order = take(sizeof(int32_t) * slots);
        starts = take(sizeof(int32_t) * (experts + 1));
        hidden = take(sizeof(float) * slots * ffn * 2);
        result = take(sizeof(float) * slots * k);
        quants = take(room<QuantTile>(slots, experts, k));
        floats = take(room<FloatTile>(slots, experts, k));
        hidden_quants = take(room<QuantTile>(slots, experts, ffn));
        hidden_floats = take(room<FloatTile>(slots, experts, ffn));
        bytes = at;
    }
};

// One thread's part of one step.
class Mixture {
  public:
    Mixture(const Experts& op, const Kernels& kernels, const Step& step, const Team& team)
        : op_(op),
          kernels_(kernels),
          step_(step),
          team_(team),
          rows_(op.rows(step)),
          experts_(op.router->rows),
          used_(op.used),
          k_(op.gate->cols),
          ffn_(op.gate->rows) {
        const ExpertsRoom at(rows_, experts_, used_, k_, ffn_);
        auto room = [&](size_t offset) { return step.scratch + offset; };
        scores_ = reinterpret_cast<float*>(room(at.scores));
        choices_ = reinterpret_cast<int32_t*>(room(at.choices));
        shares_ = reinterpret_cast<float*>(room(at.shares));
        order_ = reinterpret_cast<int32_t*>(room(at.order));
        starts_ = reinterpret_cast<int32_t*>(room(at.starts));
        hidden_ = reinterpret_cast<float*>(room(at.hidden));
        result_ = reinterpret_cast<float*>(room(at.result));
        // The router's activations lie where the experts' will: those are prepared when the routing is over.
        to_router_.add(kernels, *op.router, room(at.quants), room(at.floats));
        for (const PackedMatrix* weight : {op.gate, op.up})
            to_gate_and_up_.add(kernels, *weight, room(at.quants), room(at.floats));
        to_down_.add(kernels, *op.down, room(at.hidden_quants), room(at.hidden_floats));
    }

    // Scores this thread's rows and chooses their experts.
    void route() {
        std::vector<int32_t> best(experts_);
        const auto [begin, end] = team_.share(rows_);
        for (int64_t row = begin; row < end; ++row) {
            float* scores = scores_ + row * experts_;
            const Tile tile{0, static_cast<int>(row),         1,
                            0, row * QuantTile::bytes(1, k_), row * FloatTile::bytes(1, k_)};
            prepare_tile(kernels_, tile, k_, to_router_, [&](int) { return input(row); });
            for (int slab = 0; slab < op_.router->slabs(); ++slab)
                multiply(kernels_, *op_.router, slab, std::span(&tile, 1), to_router_,
                         [&](const Tile&, int first, int count, const float* y) { copy(y, count, scores + first); });
            choose(scores, best, choices_ + row * used_, shares_ + row * used_);
        }
    }

    // Sorts the slots by expert; one thread does it for all.
    void group() {
        if (team_.index != 0) return;
        const int slots = rows_ * used_;
        std::fill(starts_, starts_ + experts_ + 1, 0);
        for (int i = 0; i < slots; ++i) ++starts_[choices_[i] + 1];
        for (int e = 0; e < experts_; ++e) starts_[e + 1] += starts_[e];
        std::vector<int32_t> next(starts_, starts_ + experts_);
        for (int i = 0; i < slots; ++i) order_[next[choices_[i]]++] = i;
    }

    // Lists every expert's tiles and prepares this thread's share of them.
    void prepare() {
        first_tiles_.push_back(0);
        for (int e = 0; e < experts_; ++e) {
            const int count = starts_[e + 1] - starts_[e];
            if (count == 0) continue;
            append_tiles(tiles_, e, starts_[e], count, kernels_.columns, k_);
            append_tiles(hidden_tiles_, e, starts_[e], count, kernels_.columns, ffn_);
            first_tiles_.push_back(static_cast<int>(tiles_.size()));
        }
        const auto [begin, end] = team_.share(static_cast<int64_t>(tiles_.size()));
        for (int64_t i = begin; i < end; ++i)
            prepare_tile(kernels_, tiles_[i], k_, to_gate_and_up_,
                         [&](int slot) { return input(order_[slot] / used_); });
    }

    void multiply_gate_and_up() {
        const int slabs = op_.gate->slabs();
        for_slabs(0, 2 * slabs, tiles_, [&](int slab, std::span<const Tile> tiles) {
            const bool is_up = slab >= slabs;
            multiply(kernels_, is_up ? *op_.up : *op_.gate, is_up ? slab - slabs : slab, tiles, to_gate_and_up_,
                     [&](const Tile& tile, int first, int count, const float* y) {
                         for (int c = 0; c < tile.valid; ++c)
                             copy(y + c * kPanelRows, count, hidden(tile.start + c) + (is_up ? ffn_ : 0) + first);
                     });
        });
    }

    // The gated activation of this thread's share of the tiles, prepared for the down projection.
    void activate() {
        const auto [begin, end] = team_.share(static_cast<int64_t>(hidden_tiles_.size()));
        for (int64_t i = begin; i < end; ++i) {
            const Tile& tile = hidden_tiles_[i];
            for (int slot = tile.start; slot < tile.start + tile.valid; ++slot)
                kernels_.gated_act(hidden(slot), hidden(slot) + ffn_, hidden(slot), ffn_, op_.kind);
            prepare_tile(kernels_, tile, ffn_, to_down_, [&](int slot) { return hidden(slot); });
        }
    }

    void multiply_down() {
        for_slabs(1, op_.down->slabs(), hidden_tiles_, [&](int slab, std::span<const Tile> tiles) {
            multiply(kernels_, *op_.down, slab, tiles, to_down_,
                     [&](const Tile& tile, int first, int count, const float* y) {
                         for (int c = 0; c < tile.valid; ++c)
                             copy(y + c * kPanelRows, count,
                                  result_ + static_cast<int64_t>(order_[tile.start + c]) * k_ + first);
                     });
        });
    }

    // Adds up the weighted results of this thread's rows.
    void combine() {
        const auto [begin, end] = team_.share(rows_);
        for (int64_t row = begin; row < end; ++row) {
            float* to = step_.buffers[op_.out] + row * k_;
            std::fill(to, to + k_, 0.0f);
            for (int64_t i = row * used_; i < (row + 1) * used_; ++i)
                kernels_.add_scaled(to, result_ + i * k_, shares_[i], to, k_);
        }
    }

    // The squares of what the weights were multiplied with.
    void collect(Squares& squares) const {
        auto add = [&](std::initializer_list<const PackedMatrix*> weights, int matrix, int count, auto row) {
            std::vector<InputSquares*> of;
            for (const PackedMatrix* weight : weights) of.push_back(&squares.at(weight));
            add_squares(team_, of, matrix, count, (*weights.begin())->cols, row);
        };
        add({op_.router}, 0, rows_, [&](int row) { return input(row); });
        for (int e = 0; e < experts_; ++e) {
            const int start = starts_[e], count = starts_[e + 1] - start;
            add({op_.gate, op_.up}, e, count, [&](int i) { return input(order_[start + i] / used_); });
            add({op_.down}, e, count, [&](int i) { return hidden(start + i); });
        }
    }

  private:
    const Experts& op_;
    const Kernels& kernels_;
    const Step& step_;
    const Team& team_;
    const int rows_, experts_, used_, k_, ffn_;
    float *scores_, *shares_, *hidden_, *result_;  // [row][expert], [row][used], [slot][gate, up], [row][used][k]
    int32_t *choices_, *order_, *starts_;          // [row][used]; indices into it sorted by expert; where each begins
    Prepared to_router_, to_gate_and_up_, to_down_;
    std::vector<Tile> tiles_, hidden_tiles_;
    std::vector<int> first_tiles_;  // of each expert that has rows, and the end

    const float* input(int64_t row) const { return step_.buffers[op_.x] + row * k_; }
    float* hidden(int slot) const { return hidden_ + static_cast<int64_t>(slot) * 2 * ffn_; }
    static void copy(const float* from, int count, float* to) { std::memcpy(to, from, sizeof(float) * count); }

    // Softmax of one row's scores, in place; its best experts and how much of each.
    void choose(float* score, std::vector<int32_t>& best, int32_t* choices, float* shares) const {
        const float top = *std::max_element(score, score + experts_);
        float total = 0;
        for (int e = 0; e < experts_; ++e) total += score[e] = std::exp(score[e] - top);
        std::iota(best.begin(), best.end(), 0);
        // A strict order even for scores that are not numbers: those come last.
        auto value = [score](int32_t e) { return score[e] == score[e] ? score[e] : -1.0f; };
        std::partial_sort(best.begin(), best.begin() + used_, best.end(),
                          [&](int32_t a, int32_t b) { return value(a) > value(b) || (value(a) == value(b) && a < b); });
        float kept = 0;
        for (int i = 0; i < used_; ++i) kept += score[best[i]];
        for (int i = 0; i < used_; ++i) {
            choices[i] = best[i];
            shares[i] = score[best[i]] / (op_.normalise ? kept : total) * op_.scale;
        }
    }

    // Calls work(slab, tiles of its expert) for each slab of each expert that has rows. The slabs of all of them form
    // one list.
    template <class Work>
    void for_slabs(int counter, int slabs_each, const std::vector<Tile>& tiles, Work work) const {
        const int busy = static_cast<int>(first_tiles_.size()) - 1;
        team_.claim(step_.counters[op_.counter + counter], busy * slabs_each, [&](int index) {
            const int first = first_tiles_[index / slabs_each], end = first_tiles_[index / slabs_each + 1];
            work(index % slabs_each, std::span(tiles).subspan(first, end - first));
        });
    }
};

}  // namespace

size_t Experts::scratch(const Kernels&, const Step& step) const {
    return ExpertsRoom(rows(step), router->rows, used, gate->cols, gate->rows).bytes;
}

void Experts::run(const Kernels& kernels, const Step& step, Team& team) const {
    if (rows(step) == 0) return;
    Mixture mixture(*this, kernels, step, team);
    mixture.route();
    team.barrier();
    mixture.group();
    team.barrier();
    mixture.prepare();
    team.barrier();
    mixture.multiply_gate_and_up();
    team.barrier();
    mixture.activate();
    team.barrier();
    mixture.multiply_down();
    team.barrier();
    mixture.combine();
    if (step.squares) mixture.collect(*step.squares);
}

}  // namespace localllm
