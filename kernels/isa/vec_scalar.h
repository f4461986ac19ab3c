// Vector vocabulary in plain C++: the fallback on every processor and the meaning of each vector operation.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "quant/format.h"

namespace localllm {

struct Scalar {
    static constexpr int lanes = 4;
    static constexpr bool dot8_needs_seed = false;
    static constexpr int columns = 4;
    static constexpr int slab_vectors = 1;  // row vectors times 4 columns that stay in registers
    struct F {
        float v[lanes];
    };
    struct I {
        int32_t v[lanes];
    };
    struct B {
        uint8_t v[4 * lanes];
    };
    struct M {
        bool v[lanes];
    };

    template <class T, class Op>
    static T map(Op op) {
        T out;
        for (int i = 0; i < lanes; ++i) out.v[i] = op(i);
        return out;
    }
    template <class Op>
    static B bmap(Op op) {
        B out;
        for (int i = 0; i < 4 * lanes; ++i) out.v[i] = static_cast<uint8_t>(op(i));
        return out;
    }
    static uint16_t word(const void* p, int i) {
        uint16_t value;
        std::memcpy(&value, static_cast<const uint8_t*>(p) + 2 * i, 2);
        return value;
    }

    static F set1(float x) {
        return map<F>([&](int) { return x; });
    }
    static F zero() { return set1(0.0f); }
    static F load(const float* p) {
        return map<F>([&](int i) { return p[i]; });
    }
    static void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
    static F load_f16(const void* p) {
        return map<F>([&](int i) { return half_to_float(word(p, i)); });
    }
    static F load_bf16(const void* p) {
        return map<F>([&](int i) { return bfloat_to_float(word(p, i)); });
    }
    static void store_f16(void* p, F x) {
        for (int i = 0; i < lanes; ++i) {
            const uint16_t bits = float_to_half(x.v[i]);
            std::memcpy(static_cast<uint8_t*>(p) + 2 * i, &bits, 2);
        }
    }
    static F load_i8(const void* p) {
        return map<F>([&](int i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); });
    }
    static F load_u8(const void* p) {
        return map<F>([&](int i) { return static_cast<float>(static_cast<const uint8_t*>(p)[i]); });
    }
    static F add(F a, F b) {
        return map<F>([&](int i) { return a.v[i] + b.v[i]; });
    }
    static F sub(F a, F b) {
        return map<F>([&](int i) { return a.v[i] - b.v[i]; });
    }
    static F mul(F a, F b) {
        return map<F>([&](int i) { return a.v[i] * b.v[i]; });
    }
    static F div(F a, F b) {
        return map<F>([&](int i) { return a.v[i] / b.v[i]; });
    }
    static F fma(F a, F b, F c) {
        return map<F>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
    }
    static F fnma(F a, F b, F c) {
        return map<F>([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
    }
    static F max(F a, F b) {  // b where either is NaN; min likewise
        return map<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
    }
    static F min(F a, F b) {
        return map<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
    }
    static F abs(F a) {
        return map<F>([&](int i) { return std::fabs(a.v[i]); });
    }
    static float reduce_add(F a) {
        float sum = 0;
        for (float x : a.v) sum += x;
        return sum;
    }
    static float reduce_max(F a) {
        float best = a.v[0];
        for (float x : a.v) best = x > best ? x : best;
        return best;
    }
    static F round(F a) {
        return map<F>([&](int i) { return std::nearbyintf(a.v[i]); });
    }
    static F floor(F a) {
        return map<F>([&](int i) { return std::floor(a.v[i]); });
    }
    static F sqrt(F a) {
        return map<F>([&](int i) { return std::sqrt(a.v[i]); });
    }
    static M less(F a, F b) {
        return map<M>([&](int i) { return a.v[i] < b.v[i]; });
    }
    static M both(M a, M b) {
        return map<M>([&](int i) { return a.v[i] && b.v[i]; });
    }
    static bool any(M a) {
        bool found = false;
        for (bool lane : a.v) found |= lane;
        return found;
    }
    static F select(M m, F a, F b) {
        return map<F>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
    }
    static F keep(F a, F b, int first, int last) {
        return map<F>([&](int i) { return i >= first && i < last ? a.v[i] : b.v[i]; });
    }

    static I iset1(int32_t x) {
        return map<I>([&](int) { return x; });
    }
    static I izero() { return iset1(0); }
    template <int n>
    static I ishl(I a) {
        return map<I>([&](int i) { return a.v[i] * (1 << n); });
    }
    static F to_float(I a) {
        return map<F>([&](int i) { return static_cast<float>(a.v[i]); });
    }
    static I to_int(F a) {  // what does not fit, NaN included, becomes 0: the conversion alone would be undefined
        return map<I>(
            [&](int i) { return std::fabs(a.v[i]) < 2e9f ? static_cast<int32_t>(std::nearbyintf(a.v[i])) : 0; });
    }
    static F pow2(I a) {
        return map<F>([&](int i) { return std::ldexp(1.0f, a.v[i]); });
    }
    static void store_i8(int8_t* p, I a) {
        for (int i = 0; i < lanes; ++i) p[i] = static_cast<int8_t>(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]);
    }
    static int reduce_add(I a) {
        int sum = 0;
        for (int x : a.v) sum += x;
        return sum;
    }

    static B bload(const void* p) {
        return bmap([&](int i) { return static_cast<const uint8_t*>(p)[i]; });
    }
    static void bstore(void* p, B a) { std::memcpy(p, a.v, sizeof a.v); }
    static B bset1(uint8_t x) {
        return bmap([&](int) { return x; });
    }
    static B broadcast4(const void* p) {
        return bmap([&](int i) { return static_cast<const uint8_t*>(p)[i % 4]; });
    }
    static B band(B a, B b) {
        return bmap([&](int i) { return a.v[i] & b.v[i]; });
    }
    static B bor(B a, B b) {
        return bmap([&](int i) { return a.v[i] | b.v[i]; });
    }
    static B bor_masked(B a, B b, B mask) { return bor(a, band(b, mask)); }
    template <int n>
    static B shift(B a) {
        return bmap([&](int i) { return n >= 0 ? a.v[i] >> (n & 7) : a.v[i] << (-n & 7); });
    }
    static B table(const void* p) {
        return bmap([&](int i) { return static_cast<const uint8_t*>(p)[i % 16]; });
    }
    static B lookup(B t, B index) {
        return bmap([&](int i) { return t.v[index.v[i] & 15]; });
    }
    static I dot7(I sum, B w, B x) {
        return map<I>([&](int i) {
            int s = sum.v[i];
            for (int j = 4 * i; j < 4 * i + 4; ++j) s += w.v[j] * static_cast<int8_t>(x.v[j]);
            return s;
        });
    }
    static I dot8(I sum, B w, B x) {
        return map<I>([&](int i) {
            int s = sum.v[i];
            for (int j = 4 * i; j < 4 * i + 4; ++j) s += (w.v[j] - 128) * static_cast<int8_t>(x.v[j]);
            return s;
        });
    }

    static void prefetch(const void*) {}
    static void prefetch_far(const void*) {}  // to the second cache only
};

}  // namespace localllm
