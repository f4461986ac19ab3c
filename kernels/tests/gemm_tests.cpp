#include <algorithm>
#include <cmath>

#include "gemm/tiles.h"
#include "tests/testing.h"

namespace localllm {

namespace {

std::vector<Type> all_types() {
    std::vector<Type> types;
    for (int i = 0; i < static_cast<int>(Type::count); ++i) types.push_back(static_cast<Type>(i));
    return types;
}

std::vector<float> values_of(Type type, const Exact<uint8_t>& data, int64_t elements) {
    std::vector<float> out(static_cast<size_t>(elements));
    dequantize(type, data.data(), out.size(), out.data());
    return out;
}

// Packs and multiplies one weight; every tile width, every panel, against the dequantised rows.
void check_linear(const Kernels& kernels, Random& random, Type type, int rows, int cols, int count) {
    const Format& f = format(type);
    const int matrices = random.between(1, 2), which = matrices - 1;
    const Exact<uint8_t> data = random_weight(random, type, static_cast<int64_t>(matrices) * rows * cols);
    const std::vector<float> w = values_of(type, data, static_cast<int64_t>(matrices) * rows * cols);
    PackedMatrix packed(type, matrices, rows, cols);
    Exact<uint8_t> memory(packed.bytes());
    packed.data = memory.data();
    for (int m = 0; m < matrices; ++m)
        for (int panel = 0; panel < packed.panels; ++panel)
            pack_panel(data.data(), packed, m, panel,
                       packed.data + (static_cast<size_t>(m) * packed.panels + panel) * packed.panel_bytes);

    const Exact<float> x = normals(random, static_cast<size_t>(count) * cols);
    std::vector<Tile> tiles;
    append_tiles(tiles, which, 0, count, kernels.columns, cols);
    const Tile& last = tiles.back();
    const bool floats = is_float(type);
    Exact<uint8_t> quants(floats ? 0 : last.quant_offset + QuantTile::bytes(last.columns(), cols));
    Exact<uint8_t> wide(floats ? last.float_offset + FloatTile::bytes(last.columns(), cols) : 0);
    check(last.quant_offset + QuantTile::bytes(last.columns(), cols) <= room<QuantTile>(count, 1, cols),
          "room for quants is too small");
    check(last.float_offset + FloatTile::bytes(last.columns(), cols) <= room<FloatTile>(count, 1, cols),
          "room for floats is too small");
    Prepared prepared;
    prepared.add(kernels, packed, quants.data(), wide.data());
    Exact<float> y(static_cast<size_t>(count) * rows);
    for (const Tile& tile : tiles)
        prepare_tile(kernels, tile, cols, prepared,
                     [&](int slot) { return x.data() + static_cast<size_t>(slot) * cols; });
    auto multiply_into = [&](std::span<const Tile> with, float* out) {
        for (int slab = 0; slab < packed.slabs(); ++slab)
            multiply(kernels, packed, slab, with, prepared, [&](const Tile& tile, int first, int n, const float* y) {
                for (int c = 0; c < tile.valid; ++c)
                    std::copy(y + c * kPanelRows, y + c * kPanelRows + n,
                              out + static_cast<size_t>(tile.start + c) * rows + first);
            });
    };
    multiply_into(tiles, y.data());
    Exact<float> alone(y.size());
    for (const Tile& tile : tiles) multiply_into(std::span(&tile, 1), alone.data());
    check(std::equal(y.begin(), y.end(), alone.begin()), "%s %s %dx%d: %d columns together differ from tiles alone",
          kernels.name, f.name, rows, cols, count);
    for (int t = 0; t < count; ++t) {
        const float* row = x.data() + static_cast<size_t>(t) * cols;
        const std::vector<double> seen = kernels.pairs(type) ? rounded_to_bfloat(row, cols)
                                         : floats            ? std::vector<double>(row, row + cols)
                                                             : requantised(row, cols, kChunk);
        for (int r = 0; r < rows; ++r) {
            double sum = 0, size = 1e-20;
            for (int c = 0; c < cols; ++c) {
                const double term =
                    seen[c] * static_cast<double>(w[(static_cast<size_t>(which) * rows + r) * cols + c]);
                sum += term;
                size += std::fabs(term);
            }
            const double error = std::fabs(y[static_cast<size_t>(t) * rows + r] - sum) / size;
            check(error < 3e-6, "%s %s %dx%d, %d columns: row %d of token %d is off by %g", kernels.name, f.name, rows,
                  cols, count, r, t, error);
        }
    }
}

}  // namespace

void test_linear() {
    for (const Kernels* kernels : available_kernels())
        for (Type type : all_types()) {
            Random random(static_cast<uint64_t>(type) + 1);
            const int block = format(type).block;
            const std::vector<int> sizes = block == 1    ? std::vector<int>{1, 7, 33, 300}
                                           : block == 32 ? std::vector<int>{32, 96, 160, 1088}
                                                         : std::vector<int>{256, 512, 1280};
            for (int cols : sizes)
                for (int count : {1, 2, 3, 4, 5, 8, 9, 13, 24})
                    check_linear(*kernels, random, type, random.pick<int>({1, 15, 16, 17, 37}), cols, count);
        }
}

}  // namespace localllm
