// Splits rows into column tiles, prepares their activations, and multiplies panels with them.
#pragma once

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
        floats = last.float_offset + align64(sizeof(float) * k * last.columns());
    }
    for (int done = 0; done < count;) {
        const int valid = count - done < widest ? count - done : widest;
        int slot = 0;
        while ((1 << slot) < valid) ++slot;
        out.push_back({matrix, start + done, valid, slot, quants, floats});
        quants += QuantTile::bytes(1 << slot, k);
        floats += align64(sizeof(float) * k << slot);
        done += valid;
    }
}

// Room for the activations of `rows` slots in at most `matrices` groups, of either kind.
inline size_t quant_room(int rows, int matrices, int k) {
    return (static_cast<size_t>(rows) + static_cast<size_t>(kTileColumns) * matrices) * (QuantTile::bytes(1, k) + 64);
}
inline size_t float_room(int rows, int matrices, int k) {
    return (static_cast<size_t>(rows) + static_cast<size_t>(kTileColumns) * matrices) * (sizeof(float) * k + 64);
}

// The activations prepared for some weights; null for a kind that none of them reads.
struct Prepared {
    uint8_t *quants = nullptr, *floats = nullptr;
    void add(const PackedMatrix& weight, uint8_t* quant_memory, uint8_t* float_memory) {
        if (is_float(weight.type))
            floats = float_memory;
        else
            quants = quant_memory;
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
        if (to.floats) {
            float* column = reinterpret_cast<float*>(to.floats + tile.float_offset) + c;
            for (int i = 0; i < k; ++i) column[static_cast<size_t>(i) * columns] = x[i];
        }
    }
}

// Multiplies panel `panel` of the tile's matrix; calls put(slot, first_row, count, values) for each column.
template <class Put>
void multiply(const Kernels& kernels, const PackedMatrix& weight, int panel, const Tile& tile,
              const Prepared& activations, Put put) {
    alignas(64) float y[kTileColumns * kPanelRows];
    const uint8_t* data = weight.panel(tile.matrix, panel);
    if (is_float(weight.type)) {
        kernels.floating[static_cast<int>(weight.type)][tile.slot](
            data, weight.cols, reinterpret_cast<const float*>(activations.floats + tile.float_offset), y);
    } else {
        const QuantTile x(activations.quants + tile.quant_offset, tile.columns(), weight.cols);
        kernels.quantised[static_cast<int>(weight.type)][tile.slot](data, weight.cols, x, y);
    }
    const int first = panel * kPanelRows;
    const int count = weight.rows - first < kPanelRows ? weight.rows - first : kPanelRows;
    for (int c = 0; c < tile.valid; ++c) put(tile.start + c, first, count, y + c * kPanelRows);
}

}  // namespace localllm
