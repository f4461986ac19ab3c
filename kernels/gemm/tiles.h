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

// Tiles for the slots [start, start + count) that use `matrix`, appended to `out`; `widest` is 4 or 8.
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

// Fills a tile from `row(slot)` pointers; either destination may be null.
template <class Row>
void prepare_tile(const Kernels& kernels, const Tile& tile, int k, uint8_t* quants, uint8_t* floats, Row row) {
    const int columns = tile.columns();
    for (int c = 0; c < columns; ++c) {
        // Padding columns repeat the last one: finite values whose results nobody reads.
        const float* x = row(tile.start + (c < tile.valid ? c : tile.valid - 1));
        if (quants) {
            QuantTile to(quants + tile.quant_offset, columns, k);
            kernels.quantise_column(x, to, c);
        }
        if (floats) {
            float* to = reinterpret_cast<float*>(floats + tile.float_offset) + c;
            for (int i = 0; i < k; ++i) to[static_cast<size_t>(i) * columns] = x[i];
        }
    }
}

// Multiplies panel `panel` of the tile's matrix; calls put(slot, first_row, count, values) for each column.
template <class Put>
void multiply(const Kernels& kernels, const PackedMatrix& weight, int panel, const Tile& tile, uint8_t* quants,
              uint8_t* floats, Put put) {
    alignas(64) float y[kTileColumns * kPanelRows];
    const uint8_t* data = weight.panel(tile.matrix, panel);
    if (is_float(weight.type)) {
        kernels.floating[static_cast<int>(weight.type)][tile.slot](
            data, weight.cols, reinterpret_cast<const float*>(floats + tile.float_offset), y);
    } else {
        const QuantTile x(quants + tile.quant_offset, tile.columns(), weight.cols);
        kernels.quantised[static_cast<int>(weight.type)][tile.slot](data, weight.cols, x, y);
    }
    const int first = panel * kPanelRows;
    const int count = weight.rows - first < kPanelRows ? weight.rows - first : kPanelRows;
    for (int c = 0; c < tile.valid; ++c) put(tile.start + c, first, count, y + c * kPanelRows);
}

}  // namespace localllm
