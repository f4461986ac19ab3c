// The weight types of GGUF that the kernels run, and the packed form they share.
//
// Every quantised type is described by the same few facts: how many bits a code has, how many columns share a
// scale (the group), how that scale is stored, whether the group has a minimum, and which constant is subtracted
// from the code. One packed layout and one kernel template serve them all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace localllm {

enum class Type : uint8_t {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    count,
};

enum class Scale : uint8_t {
    none,   // float weights
    f16,    // one fp16 a group
    bf16,   // one bf16 a group (the powers of two of MXFP4)
    super,  // an 8-bit integer a group, times one fp16 a super-block of 256 columns
};

constexpr int kPanelRows = 16;  // output rows interleaved in one panel
constexpr int kChunk = 32;      // columns unpacked at a time
constexpr int kSuper = 256;     // columns of a super-block

struct Format {
    const char* name;
    int block;  // columns of one GGUF block
    int bytes;  // bytes of one GGUF block
    int bits;   // bits of one code
    int group;  // columns that share a scale: 16 or 32
    Scale scale;
    bool has_min;  // value = scale * code - min
    int offset;    // value = scale * (code - offset); a power of two, 0 with a minimum
    bool table;    // the code is looked up in a table of 16 values (stored + 128)
};

// GGUF block sizes: ggml's format definition (docs/gguf.md and ggml-common.h describe the same bytes).
inline constexpr Format kFormats[] = {
    {"F32", 1, 4, 32, 1, Scale::none, false, 0, false},
    {"F16", 1, 2, 16, 1, Scale::none, false, 0, false},
    {"BF16", 1, 2, 16, 1, Scale::none, false, 0, false},
    {"Q8_0", 32, 34, 8, 32, Scale::f16, false, 128, false},
    {"Q4_0", 32, 18, 4, 32, Scale::f16, false, 8, false},
    {"Q4_1", 32, 20, 4, 32, Scale::f16, true, 0, false},
    {"Q5_0", 32, 22, 5, 32, Scale::f16, false, 16, false},
    {"Q5_1", 32, 24, 5, 32, Scale::f16, true, 0, false},
    {"Q2_K", 256, 84, 2, 16, Scale::super, true, 0, false},
    {"Q3_K", 256, 110, 3, 16, Scale::super, false, 4, false},
    {"Q4_K", 256, 144, 4, 32, Scale::super, true, 0, false},
    {"Q5_K", 256, 176, 5, 32, Scale::super, true, 0, false},
    {"Q6_K", 256, 210, 6, 16, Scale::super, false, 32, false},
    {"IQ4_NL", 32, 18, 4, 32, Scale::f16, false, 128, true},
    {"IQ4_XS", 256, 136, 4, 32, Scale::super, false, 128, true},
    {"MXFP4", 32, 17, 4, 32, Scale::bf16, false, 128, true},
};
static_assert(sizeof(kFormats) / sizeof(kFormats[0]) == static_cast<size_t>(Type::count));

constexpr const Format& format(Type type) {
    return kFormats[static_cast<int>(type)];
}
constexpr int kFloatTypes = 3;  // the first ones
constexpr bool is_float(Type type) {
    return format(type).scale == Scale::none;
}

// Value tables of the types whose 4-bit codes are looked up.
inline constexpr int8_t kTableIQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr int8_t kTableMXFP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

constexpr const int8_t* table_of(Type type) {
    return type == Type::MXFP4 ? kTableMXFP4 : kTableIQ4;
}

// One GGUF block taken apart, still exact: value = d * scale[g] * (code - offset) - dmin * min[g].
struct Block {
    uint8_t code[kSuper];
    uint16_t d, dmin;  // fp16 bits (bf16 bits for MXFP4)
    int8_t scale[16];  // of Scale::super
    uint8_t min[16];
};

constexpr size_t align64(size_t n) {
    return (n + 63) & ~size_t{63};
}

// Which bits of which vector hold a code: `bits` vectors hold the 8 codes of each of their bytes. Every vector begins,
// in its low bits, with as many whole codes as it has room for; what is left at its top makes up the last codes. So no
// bit is unpacked alone, and most codes cost a shift and a mask.
struct CodePart {
    int vector, bit, count;  // bits [bit, bit + count) of a byte
};
// Where the bits of code `code` from bit `done` on are, as far as they are together.
constexpr CodePart code_part(int bits, int code, int done) {
    const int whole = 8 / bits, left = 8 % bits;
    if (code < bits * whole) return {code / whole, code % whole * bits, bits};
    const int at = (code - bits * whole) * bits + done, in = at % left;
    return {at / left, 8 - left + in, bits - done < left - in ? bits - done : left - in};
}

// How one packed panel of 16 rows lies in memory: units of 64 columns (256 for types with super-blocks), one after
// the other, so that a panel is a single stream. A unit holds these sections, 16 rows side by side, so that one vector
// lane is one row:
//   d, dmin   fp16 [groups or 1][16]
//   scale     int8 [groups][16]           (Scale::super)
//   min       uint8 [groups][16]          (Scale::super with a minimum)
//   codes     [chunks of 32][bits][64 bytes], see CodePart; neighbouring codes of a byte are 4 columns (one lane) apart
// A last unit that is not full is padded with zeros. Float weights are [cols][16] values, without units.
struct PanelLayout {
    size_t dmin = 0, scale = 0, min = 0, codes = 0;  // offsets in a unit; d is at 0
    int unit_cols = 1;
    size_t unit_bytes = 0;

    explicit constexpr PanelLayout(Type type) {
        const Format& f = format(type);
        unit_cols = f.scale == Scale::none ? 1 : f.scale == Scale::super ? kSuper : 2 * kChunk;
        const size_t groups = static_cast<size_t>(unit_cols / f.group);
        if (f.scale != Scale::none) {
            const bool super = f.scale == Scale::super;
            const size_t outer = (super ? 1 : groups) * kPanelRows * 2, inner = super ? groups * kPanelRows : 0;
            dmin = outer;
            scale = dmin + (f.has_min ? outer : 0);
            min = scale + inner;
            codes = align64(min + (f.has_min ? inner : 0));
        }
        unit_bytes = codes + static_cast<size_t>(unit_cols) * kPanelRows * f.bits / 8;
    }
    constexpr size_t bytes(int cols) const { return (cols + unit_cols - 1) / unit_cols * unit_bytes; }
};

// Changes whenever the bytes of a packed weight do, so that packed files of before are not taken for new ones.
constexpr int kPackedLayout = 2;

// A linear weight packed for the kernels: `matrices` (experts; 1 for a plain weight) times `panels` panels.
struct PackedMatrix {
    Type type;
    int matrices, rows, cols;
    int panels;  // of one matrix: rows rounded up to 16, the padding rows are zero
    size_t panel_bytes;
    uint8_t* data;

    PackedMatrix(Type type, int matrices, int rows, int cols)
        : type(type),
          matrices(matrices),
          rows(rows),
          cols(cols),
          panels((rows + kPanelRows - 1) / kPanelRows),
          panel_bytes(align64(PanelLayout(type).bytes(cols))),
          data(nullptr) {}
    size_t bytes() const { return panel_bytes * panels * matrices; }

    // Pairs of panels, of one matrix.
    int slabs() const { return (panels + 1) / 2; }
    const uint8_t* panel(int matrix, int index) const {
        return data + (static_cast<size_t>(matrix) * panels + index) * panel_bytes;
    }
};

// Scalar reference: `n` weights of one GGUF row to float32, equal to the bit to the format's definition.
void dequantize(Type type, const uint8_t* data, size_t n, float* out);

// Takes one GGUF block apart.
void take_apart(Type type, const uint8_t* data, Block& out);

// Packs panel `index` of the given matrix from GGUF rows (row-major, `rows` x `cols`) into zeroed memory at `out`.
void pack_panel(const uint8_t* source, const PackedMatrix& matrix, int which, int index, uint8_t* out);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
inline float bfloat_to_float(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

}  // namespace localllm
