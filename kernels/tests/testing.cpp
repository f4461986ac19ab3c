#include "tests/testing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace localllm {

void check(bool right, const char* form, ...) {
    if (right) {
        ++passed;
        return;
    }
    std::fputs("FAILED: ", stderr);
    va_list parts;
    va_start(parts, form);
    std::vfprintf(stderr, form, parts);
    va_end(parts);
    std::fputs("\n", stderr);
    std::exit(1);
}

Exact<float> normals(Random& random, size_t n, float size) {
    Exact<float> out(n);
    for (float& x : out) x = random.normal() * size;
    return out;
}

Exact<uint8_t> random_weight(Random& random, Type type, int64_t elements) {
    const Format& f = format(type);
    Exact<uint8_t> out(static_cast<size_t>(elements / f.block * f.bytes));
    auto half = [&](uint8_t* p) {
        const uint16_t bits = float_to_half(random.uniform(0.01f, 0.02f) * (random.below(2) ? 1.0f : -1.0f));
        std::memcpy(p, &bits, 2);
    };
    if (type == Type::F32) {
        for (int64_t i = 0; i < elements; ++i) {
            const float x = random.normal();
            std::memcpy(out.data() + 4 * i, &x, 4);
        }
        return out;
    }
    for (uint8_t* p = out.begin(); p < out.end(); p += f.bytes) {
        for (int i = 0; i < f.bytes; ++i) p[i] = static_cast<uint8_t>(random.next());
        switch (type) {
            case Type::F16:
                half(p);
                break;
            case Type::BF16:
                p[1] = static_cast<uint8_t>(0x3b + random.below(5) + 0x80 * random.below(2));
                break;
            case Type::Q4_1:
            case Type::Q5_1:
            case Type::Q4_K:
            case Type::Q5_K:
                half(p);
                half(p + 2);
                break;
            case Type::Q2_K:
                half(p + 80);
                half(p + 82);
                break;
            case Type::Q3_K:
                half(p + 108);
                break;
            case Type::Q6_K:
                half(p + 208);
                break;
            case Type::MXFP4:
                p[0] = static_cast<uint8_t>(random.between(118, 126));
                break;
            default:
                half(p);
                break;
        }
    }
    return out;
}

std::vector<double> requantised(const float* x, int n, int run) {
    std::vector<double> out(n);
    for (int start = 0; start < n; start += run) {
        float top = 0;
        for (int i = start; i < start + run; ++i) top = std::max(top, std::fabs(x[i]));
        const float inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
        for (int i = start; i < start + run; ++i) out[i] = static_cast<double>(scale) * std::nearbyint(x[i] * inverse);
    }
    return out;
}

std::vector<double> rounded_to_bfloat(const float* x, int n) {
    std::vector<double> out(n);
    for (int i = 0; i < n; ++i) {
        const auto bits = std::bit_cast<uint32_t>(x[i]);
        const uint32_t nearest_even = bits + 0x7fff + (bits >> 16 & 1);
        out[i] = bfloat_to_float(static_cast<uint16_t>(nearest_even >> 16));
    }
    return out;
}

}  // namespace localllm
