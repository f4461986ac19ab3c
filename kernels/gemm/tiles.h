// Splits rows into column tiles, prepares their activations, and multiplies weights with them.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "gemm/activations.h"
#include "isa/kernels.h"

namespace localllm {

// Up to 8 consecutive slots (tokens) that use the same matrix of a weight. Slots past `valid` are padding.
struct Tile {
    int matrix, start, valid, slot;     // columns = 1 << slot
    size_t quant_offset, float_offset;  // into the prepared activations
    int columns() const { return 1 << slot; }
};

// Tiles for the slots [start, start + count) that use `matrix`, appended to `out`; `widest` is a power of two.
inline void append_tiles(std::vector<Tile>& out, int matrix, int start, int count, int widest, int k) {
    size_t quants = 0, floats = 0;
    if (!out.empty()) {
        const Tile& last = out.back();
        quants = last.quant_offset + QuantTile::bytes(last.columns(), k);
        floats = last.float_offset + FloatTile::bytes(last.columns(), k);
    }
    for (int done = 0; done < count;) {
        const int valid = count - done < widest ? count - done : widest;
        int slot = count > widest ? log2_of(kSlabTileWidth) : 0;
        while ((1 << slot) < valid) ++slot;
        out.push_back({matrix, start + done, valid, slot, quants, floats});
        quants += QuantTile::bytes(1 << slot, k);
        floats += FloatTile::bytes(1 << slot, k);
        done += valid;
    }
}

// Room for the activations of `rows` slots in at most `matrices` groups, of either kind.
inline size_t quant_room(int rows, int matrices, int k) {
    return (static_cast<size_t>(rows) + static_cast<size_t>(kTileColumns) * matrices) * (QuantTile::bytes(1, k) + 64);
}
inline size_t float_room(int rows, int matrices, int k) {
    return (static_cast<size_t>(rows) + static_cast<size_t>(kTileColumns) * matrices) * (FloatTile::bytes(1, k) + 64);
}

// The activations prepared for some weights: where, and which kinds they read.
struct Prepared {
    uint8_t *quants = nullptr, *floats = nullptr;
    bool wide = false, pairs = false;
    void add(const Kernels& kernels, const PackedMatrix& weight, uint8_t* quant_memory, uint8_t* float_memory) {
        if (!is_float(weight.type)) {
            quants = quant_memory;
            return;
        }
        floats = float_memory;
        (kernels.pairs(weight.type) ? pairs : wide) = true;
    }
};

// Fills a tile from `row(slot)` pointers.
template <class Row>
void prepare_tile(const Kernels& kernels, const Tile& tile, int k, const Prepared& to, Row row) {
    const int columns = tile.columns();
    for (int c = 0; c < columns; ++c) {
        // Padding columns repeat the last one: finite values whose results nobody reads.
        const float* x = row(tile.start + (c < tile.valid ? c : tile.valid - 1));
        if (to.quants) {
            QuantTile quantised(to.quants + tile.quant_offset, columns, k);
            kernels.quantise_column(x, quantised, c);
        }
        if (!to.floats) continue;
        FloatTile floats(to.floats + tile.float_offset, columns, k);
        if (to.wide)
            for (int i = 0; i < k; ++i) floats.wide[static_cast<size_t>(i) * columns + c] = x[i];
        if (to.pairs) kernels.pair_column(x, floats, c);
    }
}

// So many tiles are multiplied one by one: unpacking the codes for each costs less than it does to expand them first,
// and memory is read all the time.
constexpr size_t kFewTiles = 3;

// Multiplies slab `index` of the tiles' matrix with them; calls put(tile, first_row, count, values) for each panel of
// it with each tile: `count` of the 16 rows exist, the values are [tile.valid][16] and may be changed.
template <class Put>
void multiply(const Kernels& kernels, const PackedMatrix& weight, int index, std::span<const Tile> tiles,
              const Prepared& activations, Put put) {
    const int type = static_cast<int>(weight.type), k = weight.cols, first_panel = index * kSlabPanels;
    const int panels = std::min(kSlabPanels, weight.panels - first_panel);
    auto data = [&](int panel) { return weight.panel(tiles[0].matrix, first_panel + panel); };
    auto floats = [&](const Tile& tile) {
        const FloatTile floats(activations.floats + tile.float_offset, tile.columns(), k);
        return kernels.pairs(weight.type) ? floats.pairs : floats.wide;
    };
    auto quants = [&](const Tile& tile) {
        return QuantTile(activations.quants + tile.quant_offset, tile.columns(), k);
    };
    auto put_panel = [&](const Tile& tile, int panel, float* y) {
        const int row = (first_panel + panel) * kPanelRows;
        put(tile, row, std::min(kPanelRows, weight.rows - row), y);
    };
    if (tiles.size() <= kFewTiles) {
        alignas(64) float y[kTileColumns * kPanelRows];
        for (int panel = 0; panel < panels; ++panel)
            for (const Tile& tile : tiles) {
                if (is_float(weight.type))
                    kernels.floating[type][tile.slot](data(panel), k, floats(tile), y);
                else
                    kernels.quantised[type][tile.slot](data(panel), k, quants(tile), y);
                put_panel(tile, panel, y);
            }
        return;
    }
    constexpr size_t kTileSums = kSlabPanels * kTileColumns * kPanelRows;
    thread_local std::unique_ptr<Slab> slab;
    thread_local std::vector<float> sums;
    if (!slab) slab = std::make_unique<Slab>();
    if (sums.size() < kTileSums * tiles.size()) sums.resize(kTileSums * tiles.size());
    const int block = slab_columns(weight.type);
    for (int first = 0; first < k; first += block) {
        const int count = std::min(block, k - first);
        for (int panel = 0; panel < panels; ++panel) kernels.expand[type](data(panel), first, count, *slab, panel);
        for (size_t i = 0; i < tiles.size(); ++i) {
            const int wide = tiles[i].columns() > kSlabTileWidth;
            float* y = sums.data() + kTileSums * i;
            if (is_float(weight.type))
                kernels.slab_float[type][wide](*slab, first, count, floats(tiles[i]), y);
            else
                kernels.slab[type][wide](*slab, first, count, quants(tiles[i]), y);
        }
    }
    for (size_t i = 0; i < tiles.size(); ++i)
        for (int panel = 0; panel < panels; ++panel)
            put_panel(tiles[i], panel, sums.data() + kTileSums * i + panel * tiles[i].columns() * kPanelRows);
}

}  // namespace localllm
