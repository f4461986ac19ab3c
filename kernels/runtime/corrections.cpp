#include "runtime/corrections.h"

#include <algorithm>

namespace localllm {

namespace {

constexpr int kSlabRows = kSlabPanels * kPanelRows;
constexpr int kPartColumns = 1024;  // of x, in one reduction: an A of low rank has no more than a panel or two to share

}  // namespace

Corrections::Corrections(const Kernels& kernels, const Linear& op, const Step& step)
    : kernels_(kernels),
      rows_(op.rows(step)),
      k_(op.targets[0].weight->cols),
      parts_((k_ + kPartColumns - 1) / kPartColumns) {
    const auto& runs = op.on_selected ? step.adapted_selected : step.adapted;
    if (runs.empty()) return;
    products_.resize(op.targets.size());
    for (const AdaptedRows& run : runs) {
        const auto adapts = [&](const Linear::Target& target) { return run.adapter->of(target.weight) != nullptr; };
        if (std::none_of(op.targets.begin(), op.targets.end(), adapts)) continue;
        const int first = tiles();
        append_tiles(tiles_, 0, run.start, run.count, kernels.columns, k_);
        for (size_t t = 0; t < op.targets.size(); ++t) {
            const LowRank* term = run.adapter->of(op.targets[t].weight);
            for (int tile = first; term && tile < tiles(); ++tile) {
                const int product = static_cast<int>(products_[t].size());
                products_[t].push_back({tile, term, reduced_floats_});
                reduced_floats_ += align64(static_cast<size_t>(term->a.rows) * tiles_[tile].columns());
                for (int panel = 0; panel < term->a.panels; ++panel)
                    for (int part = 0; part < parts_; ++part)
                        reductions_.push_back({static_cast<int>(t), product, panel, part});
            }
        }
    }
    if (none()) return;
    input_bytes_ = tiles_.back().float_offset + FloatTile::bytes(tiles_.back().columns(), k_);
}

void Corrections::reduce(int index, const uint8_t* inputs, float* reduced) const {
    const auto [target, which, panel, part] = reductions_[index];
    const Product& product = products_[target][which];
    const Tile& tile = tiles_[product.tile];
    const PackedMatrix& a = product.term->a;
    const int from = part * kPartColumns, columns = tile.columns();
    alignas(64) float y[kTileColumns * kPanelRows];
    kernels_.floating[static_cast<int>(Type::F32)][tile.slot](
        a.panel(0, panel) + sizeof(float) * kPanelRows * from, std::min(kPartColumns, k_ - from),
        reinterpret_cast<const float*>(inputs + tile.float_offset) + static_cast<size_t>(from) * columns, y);
    const int first = panel * kPanelRows, count = std::min(kPanelRows, a.rows - first);
    float* out = reduced + part * reduced_floats_ + product.reduced + static_cast<size_t>(first) * columns;
    for (int i = 0; i < count; ++i)
        for (int c = 0; c < columns; ++c) *out++ = y[c * kPanelRows + i];
}

void Corrections::gather(const float* reduced) {
    sums_.assign(reduced, reduced + reduced_floats_);
    const int floats = static_cast<int>(reduced_floats_);
    for (int part = 1; part < parts_; ++part)
        kernels_.add_scaled(sums_.data(), reduced + part * reduced_floats_, 1.0f, sums_.data(), floats);
}

void Corrections::expand(int target, int slab, Addend& out) const {
    out.first_ = slab * kSlabRows;
    out.values_.clear();
    const auto& products = products_[target];
    if (products.empty()) return;
    out.values_.assign(static_cast<size_t>(rows_) * kSlabRows, -0.0f);  // which changes no number when it is added
    alignas(64) float y[kTileColumns * kPanelRows];
    for (int panel = 0; panel < kSlabPanels; ++panel)
        for (const Product& product : products) {
            const Tile& tile = tiles_[product.tile];
            const PackedMatrix& b = product.term->b;
            const int index = slab * kSlabPanels + panel;
            if (index >= b.panels) return;
            kernels_.floating[static_cast<int>(Type::F32)][tile.slot](b.panel(0, index), b.cols,
                                                                      sums_.data() + product.reduced, y);
            for (int c = 0; c < tile.valid; ++c)
                std::copy_n(y + c * kPanelRows, kPanelRows,
                            out.values_.begin() + (tile.start + c) * kSlabRows + panel * kPanelRows);
        }
}

void Corrections::Addend::add(const Tile& tile, int first, int count, float* y) const {
    if (values_.empty()) return;
    const float* from = values_.data() + static_cast<int64_t>(tile.start) * kSlabRows + (first - first_);
    for (int c = 0; c < tile.valid; ++c, from += kSlabRows, y += kPanelRows)
        for (int i = 0; i < count; ++i) y[i] += from[i];
}

}  // namespace localllm
