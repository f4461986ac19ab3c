// Each GGUF block format taken apart into codes and scales, and the scalar dequantiser built on it.
#include <cstring>

#include "quant/format.h"

namespace localllm {

float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023, wide;
    if (exponent == 0) {
        // Zero and subnormal halves: the mantissa counts units of 2^-24.
        float value = static_cast<float>(mantissa) * 5.9604644775390625e-08f;
        std::memcpy(&wide, &value, 4);
        wide |= sign;
    } else {
        wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (mantissa << 13);
    }
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x47800000) return sign | 0x7c00;
    if (magnitude < 0x38800000) {
        // Subnormal: let float addition round to units of 2^-24, ties to even.
        float shifted;
        std::memcpy(&shifted, &magnitude, 4);
        shifted += 0.5f;
        std::memcpy(&bits, &shifted, 4);
        return sign | static_cast<uint16_t>(bits - 0x3f000000);
    }
    const uint32_t odd = (magnitude >> 13) & 1;
    return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

namespace {

uint16_t read16(const uint8_t* p) {
    uint16_t value;
    std::memcpy(&value, p, 2);
    return value;
}

// Low nibbles are the first half of the run, high nibbles the second.
void nibbles(const uint8_t* packed, int half, uint8_t* code) {
    for (int i = 0; i < half; ++i) {
        code[i] = packed[i] & 15;
        code[i + half] = packed[i] >> 4;
    }
}

void add_fifth_bit(const uint8_t* bits, uint8_t* code) {
    uint32_t high;
    std::memcpy(&high, bits, 4);
    for (int i = 0; i < 32; ++i) code[i] |= ((high >> i) & 1) << 4;
}

// The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
void six_bit_scales(const uint8_t* p, Block& out) {
    for (int i = 0; i < 4; ++i) {
        out.scale[i] = static_cast<int8_t>(p[i] & 63);
        out.min[i] = p[i + 4] & 63;
        out.scale[i + 4] = static_cast<int8_t>((p[i + 8] & 15) | ((p[i] >> 6) << 4));
        out.min[i + 4] = static_cast<uint8_t>((p[i + 8] >> 4) | ((p[i + 4] >> 6) << 4));
    }
}

void q2_k(const uint8_t* p, Block& out) {
    for (int g = 0; g < 16; ++g) {
        out.scale[g] = static_cast<int8_t>(p[g] & 15);
        out.min[g] = p[g] >> 4;
    }
    const uint8_t* q = p + 16;
    for (int half = 0; half < 2; ++half)
        for (int shift = 0; shift < 4; ++shift)
            for (int i = 0; i < 32; ++i) out.code[half * 128 + shift * 32 + i] = (q[half * 32 + i] >> (2 * shift)) & 3;
    out.d = read16(p + 80);
    out.dmin = read16(p + 82);
}

void q3_k(const uint8_t* p, Block& out) {
    const uint8_t *high = p, *q = p + 32, *s = p + 96;
    for (int half = 0; half < 2; ++half)
        for (int shift = 0; shift < 4; ++shift)
            for (int i = 0; i < 32; ++i) {
                const int low = (q[half * 32 + i] >> (2 * shift)) & 3;
                const int top = (high[i] >> (half * 4 + shift)) & 1;
                out.code[half * 128 + shift * 32 + i] = static_cast<uint8_t>(low | (top << 2));
            }
    for (int g = 0; g < 16; ++g) {
        const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        const int top = (s[8 + g % 4] >> (2 * (g / 4))) & 3;
        out.scale[g] = static_cast<int8_t>((low | (top << 4)) - 32);
    }
    out.d = read16(p + 108);
}

void q4_k(const uint8_t* p, Block& out) {
    out.d = read16(p);
    out.dmin = read16(p + 2);
    six_bit_scales(p + 4, out);
    for (int i = 0; i < 4; ++i) nibbles(p + 16 + 32 * i, 32, out.code + 64 * i);
}

void q5_k(const uint8_t* p, Block& out) {
    out.d = read16(p);
    out.dmin = read16(p + 2);
    six_bit_scales(p + 4, out);
    const uint8_t* high = p + 16;
    for (int i = 0; i < 4; ++i) nibbles(p + 48 + 32 * i, 32, out.code + 64 * i);
    for (int g = 0; g < 8; ++g)
        for (int i = 0; i < 32; ++i) out.code[32 * g + i] |= ((high[i] >> g) & 1) << 4;
}

void q6_k(const uint8_t* p, Block& out) {
    const uint8_t *low = p, *high = p + 128;
    for (int half = 0; half < 2; ++half) {
        uint8_t* code = out.code + 128 * half;
        nibbles(low + 64 * half, 64, code);
        for (int part = 0; part < 4; ++part)
            for (int i = 0; i < 32; ++i) code[32 * part + i] |= ((high[32 * half + i] >> (2 * part)) & 3) << 4;
    }
    std::memcpy(out.scale, p + 192, 16);
    out.d = read16(p + 208);
}

void iq4_xs(const uint8_t* p, Block& out) {
    out.d = read16(p);
    const uint16_t high = read16(p + 2);
    for (int g = 0; g < 8; ++g) {
        const int low = (p[4 + g / 2] >> (4 * (g % 2))) & 15;
        out.scale[g] = static_cast<int8_t>((low | (((high >> (2 * g)) & 3) << 4)) - 32);
        nibbles(p + 8 + 16 * g, 16, out.code + 32 * g);
    }
}

}  // namespace

void take_apart(Type type, const uint8_t* p, Block& out) {
    switch (type) {
        case Type::Q8_0:
            out.d = read16(p);
            for (int i = 0; i < 32; ++i) out.code[i] = p[2 + i] ^ 0x80;
            break;
        case Type::Q4_0:
        case Type::IQ4_NL:
            out.d = read16(p);
            nibbles(p + 2, 16, out.code);
            break;
        case Type::Q4_1:
            out.d = read16(p);
            out.dmin = read16(p + 2) ^ 0x8000;  // stored as a value that is added
            nibbles(p + 4, 16, out.code);
            break;
        case Type::Q5_0:
            out.d = read16(p);
            nibbles(p + 6, 16, out.code);
            add_fifth_bit(p + 2, out.code);
            break;
        case Type::Q5_1:
            out.d = read16(p);
            out.dmin = read16(p + 2) ^ 0x8000;
            nibbles(p + 8, 16, out.code);
            add_fifth_bit(p + 4, out.code);
            break;
        case Type::MXFP4:
            // The table holds twice the E2M1 values, so the exponent byte e stands for 2^(e - 128).
            out.d = static_cast<uint16_t>(p[0] < 2 ? 0x20 << p[0] : (p[0] - 1) << 7);
            nibbles(p + 1, 16, out.code);
            break;
        case Type::Q2_K:
            q2_k(p, out);
            break;
        case Type::Q3_K:
            q3_k(p, out);
            break;
        case Type::Q4_K:
            q4_k(p, out);
            break;
        case Type::Q5_K:
            q5_k(p, out);
            break;
        case Type::Q6_K:
            q6_k(p, out);
            break;
        case Type::IQ4_XS:
            iq4_xs(p, out);
            break;
        default:
            break;
    }
}

void dequantize(Type type, const uint8_t* data, size_t n, float* out) {
    const Format& f = format(type);
    if (type == Type::F32) {
        std::memcpy(out, data, n * 4);
        return;
    }
    if (is_float(type)) {
        for (size_t i = 0; i < n; ++i)
            out[i] = type == Type::F16 ? half_to_float(read16(data + 2 * i)) : bfloat_to_float(read16(data + 2 * i));
        return;
    }
    Block block;
    const int8_t* table = f.table ? table_of(type) : nullptr;
    for (size_t start = 0; start < n; start += f.block, data += f.bytes) {
        take_apart(type, data, block);
        const float d = f.scale == Scale::bf16 ? bfloat_to_float(block.d) : half_to_float(block.d);
        const float dmin = f.has_min ? half_to_float(block.dmin) : 0.0f;
        for (int i = 0; i < f.block; ++i) {
            const int g = i / f.group;
            const int code = table ? table[block.code[i]] : block.code[i] - f.offset;
            const float scale = f.scale == Scale::super ? d * static_cast<float>(block.scale[g]) : d;
            float value = scale * static_cast<float>(code);
            if (f.has_min) value -= f.scale == Scale::super ? dmin * static_cast<float>(block.min[g]) : dmin;
            out[start + i] = value;
        }
    }
}

}  // namespace localllm
