// Splits rows into column tiles, prepares their activations, and multiplies weights with them.
#pragma once

#include <algorithm>
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

// Bytes of the activations of `rows` slots in at most `matrices` groups, as `TileOf`: QuantTile or FloatTile.
template <class TileOf>
size_t room(int64_t rows, int64_t matrices, int k) {
    return static_cast<size_t>(rows + kTileColumns * matrices) * (TileOf::bytes(1, k) + 64);
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

// Receives one panel's results with one tile: put(tile, first_row, count, values), where `count` of the 16 rows exist
// and the values are [tile.valid][16] and may be changed.
template <class Put>
void put_panel(const PackedMatrix& weight, int panel, const Tile& tile, float* y, Put& put) {
    const int row = panel * kPanelRows;
    put(tile, row, std::min(kPanelRows, weight.rows - row), y);
}

// What a tile is multiplied as.
inline QuantTile quants_of(const Prepared& activations, const Tile& tile, int k) {
    return {activations.quants + tile.quant_offset, tile.columns(), k};
}
inline const float* floats_of(const Kernels& kernels, Type type, const Prepared& activations, const Tile& tile, int k) {
    const FloatTile floats(activations.floats + tile.float_offset, tile.columns(), k);
    return kernels.pairs(type) ? floats.pairs : floats.wide;
}

// So many tiles are multiplied one by one: unpacking the codes for each costs less than it does to expand them first,
// and memory is read all the time.
constexpr size_t kFewTiles = 3;

template <class Put>
void multiply_few(const Kernels& kernels, const PackedMatrix& weight, int first_panel, int panels,
                  std::span<const Tile> tiles, const Prepared& activations, Put put) {
    const int type = static_cast<int>(weight.type), k = weight.cols;
    alignas(64) float y[kTileColumns * kPanelRows];
    for (int panel = first_panel; panel < first_panel + panels; ++panel)
        for (const Tile& tile : tiles) {
            const uint8_t* data = weight.panel(tile.matrix, panel);
            if (is_float(weight.type))
                kernels.floating[type][tile.slot](data, k, floats_of(kernels, weight.type, activations, tile, k), y);
            else
                kernels.quantised[type][tile.slot](data, k, quants_of(activations, tile, k), y);
            put_panel(weight, panel, tile, y, put);
        }
}

template <class Put>
void multiply_slabs(const Kernels& kernels, const PackedMatrix& weight, int first_panel, int panels,
                    std::span<const Tile> tiles, const Prepared& activations, Put put) {
    constexpr size_t kTileSums = kSlabPanels * kTileColumns * kPanelRows;
    thread_local Slab slab;
    thread_local std::vector<float> sums;
    if (sums.size() < kTileSums * tiles.size()) sums.resize(kTileSums * tiles.size());
    const int type = static_cast<int>(weight.type), k = weight.cols, block = slab_columns(weight.type);
    for (int first = 0; first < k; first += block) {
        const int count = std::min(block, k - first);
        for (int panel = 0; panel < panels; ++panel)
            kernels.expand[type](weight.panel(tiles[0].matrix, first_panel + panel), first, count, slab, panel);
        for (size_t i = 0; i < tiles.size(); ++i) {
            const int wide = tiles[i].columns() > kSlabTileWidth;
            float* y = sums.data() + kTileSums * i;
            if (is_float(weight.type))
                kernels.slab_float[type][wide](slab, first, count,
                                               floats_of(kernels, weight.type, activations, tiles[i], k), y);
            else
                kernels.slab[type][wide](slab, first, count, quants_of(activations, tiles[i], k), y);
        }
    }
    for (size_t i = 0; i < tiles.size(); ++i)
        for (int panel = 0; panel < panels; ++panel)
            put_panel(weight, first_panel + panel, tiles[i],
                      sums.data() + kTileSums * i + panel * tiles[i].columns() * kPanelRows, put);
}

// Multiplies slab `index` of the tiles' matrix with them; see put_panel. Tiles of more than kFewTiles are at least
// kSlabTileWidth wide, as append_tiles makes them.
template <class Put>
void multiply(const Kernels& kernels, const PackedMatrix& weight, int index, std::span<const Tile> tiles,
              const Prepared& activations, Put put) {
    const int first = index * kSlabPanels, panels = std::min(kSlabPanels, weight.panels - first);
    if (tiles.size() <= kFewTiles)
        multiply_few(kernels, weight, first, panels, tiles, activations, put);
    else
        multiply_slabs(kernels, weight, first, panels, tiles, activations, put);
}

}  // namespace localllm
