// Repacks GGUF rows into panels of 16 interleaved rows (see PanelLayout).
#include <algorithm>
#include <cstring>

#include "isa/processor.h"
#include "quant/format.h"

namespace localllm {

namespace {

// One chunk of 32 columns; codes[w][r]: word w of 4 columns of row r.
void store_chunk(const uint32_t (*codes)[kPanelRows], int bits, uint8_t* out) {
    uint32_t words[8][kPanelRows] = {};
    for (int code = 0; code < 8; ++code)
        for (int done = 0; done < bits;) {
            const CodePart part = code_part(bits, code, done);
            const uint32_t mask = 0x01010101u * ((1u << part.count) - 1);
            for (int r = 0; r < kPanelRows; ++r) words[part.vector][r] |= ((codes[code][r] >> done) & mask) << part.bit;
            done += part.count;
        }
    std::memcpy(out, words, static_cast<size_t>(bits) * 64);
}

void pack_float(const uint8_t* source, const PackedMatrix& m, int first, int valid, uint8_t* out) {
    const size_t size = static_cast<size_t>(format(m.type).bytes);
    for (int r = 0; r < valid; ++r) {
        const uint8_t* row = source + static_cast<size_t>(first + r) * m.cols * size;
        uint8_t* to = out + r * size;
        if (size == 4)
            for (int c = 0; c < m.cols; ++c) std::memcpy(to + static_cast<size_t>(c) * 64, row + c * 4, 4);
        else
            for (int c = 0; c < m.cols; ++c) std::memcpy(to + static_cast<size_t>(c) * 32, row + c * 2, 2);
    }
}

}  // namespace

void pack_panel(const uint8_t* source, const PackedMatrix& m, int which, int index, uint8_t* panel) {
    const Format& f = format(m.type);
    const PanelLayout at(m.type);
    const int first = index * kPanelRows, valid = std::min(kPanelRows, m.rows - first);
    const size_t row_bytes = static_cast<size_t>(m.cols) / f.block * f.bytes;
    source += static_cast<size_t>(which) * m.rows * row_bytes;
    if (is_float(m.type)) return pack_float(source, m, first, valid, panel);

    const bool super = f.scale == Scale::super;
    const int groups = f.block / f.group, blocks_per_unit = at.unit_cols / f.block, chunks = f.block / kChunk;
    alignas(64) uint32_t codes[kSuper / 4][kPanelRows] = {};
    Block block;
    for (int b = 0; b < m.cols / f.block; ++b) {
        uint8_t* unit = panel + b / blocks_per_unit * at.unit_bytes;
        const int in_unit = b % blocks_per_unit;
        for (int r = 0; r < valid; ++r) {
            const uint8_t* from = source + (first + r) * row_bytes + static_cast<size_t>(b) * f.bytes;
            // The same place of the next panel: sixteen rows in turns are no order that the processor sees through.
            for (int line = 0; line < f.bytes; line += 64) prefetch(from + kPanelRows * row_bytes + line);
            take_apart(m.type, from, block);
            for (int w = 0; w < f.block / 4; ++w) std::memcpy(&codes[w][r], block.code + 4 * w, 4);
            const int slot = (in_unit * kPanelRows + r) * 2;
            std::memcpy(unit + slot, &block.d, 2);
            if (f.has_min) std::memcpy(unit + at.dmin + slot, &block.dmin, 2);
            if (!super) continue;
            for (int g = 0; g < groups; ++g) {
                unit[at.scale + g * kPanelRows + r] = static_cast<uint8_t>(block.scale[g]);
                if (f.has_min) unit[at.min + g * kPanelRows + r] = block.min[g];
            }
        }
        for (int c = 0; c < chunks; ++c)
            store_chunk(codes + c * 8, f.bits,
                        unit + at.codes + static_cast<size_t>(in_unit * chunks + c) * 64 * f.bits);
    }
}

}  // namespace localllm
