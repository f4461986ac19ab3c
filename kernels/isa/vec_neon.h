// Vector vocabulary: NEON of 64-bit ARM, with the dot product extension where LOCALLLM_DOT_PRODUCT is defined (the
// compiler's own macro would not do: on Apple's processors it is always set, and both vocabularies are built). 4 lanes.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "isa/processor.h"

namespace localllm {

#ifdef LOCALLLM_DOT_PRODUCT
#define LOCALLLM_NEON NeonDot
#else
#define LOCALLLM_NEON Neon
#endif

struct LOCALLLM_NEON {
    static constexpr int lanes = 4;
    static constexpr bool dot8_needs_seed = false;  // products are signed by signed
    static constexpr int columns = 4;               // 8 would need all 32 registers for the sums alone
    static constexpr int slab_vectors = 2;          // row vectors times 4 columns that stay in registers
    using F = float32x4_t;
    struct I {  // a type of its own: to MSVC every vector of 128 bits is the same one, and reduce_add is overloaded
        int32x4_t v;
    };
    using B = uint8x16_t;
    using M = uint32x4_t;

    static F zero() { return vdupq_n_f32(0.0f); }
    static F set1(float x) { return vdupq_n_f32(x); }
    static F load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, F x) { vst1q_f32(p, x); }
    static F load_f16(const void* p) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p))));
    }
    static F load_bf16(const void* p) {
        return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(static_cast<const uint16_t*>(p))), 16));
    }
    static void store_f16(void* p, F x) { vst1_u16(static_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(x))); }
    static F load_i8(const void* p) {
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(word(p)))))));
    }
    static F load_u8(const void* p) {
        return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word(p)))))));
    }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
    // b where either is NaN, which vmaxq_f32 and vminq_f32 would give as NaN.
    static F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    static F abs(F a) { return vabsq_f32(a); }
    static float reduce_add(F a) { return vaddvq_f32(a); }
    static float reduce_max(F a) { return vmaxvq_f32(a); }
    static F round(F a) { return vrndnq_f32(a); }
    static F floor(F a) { return vrndmq_f32(a); }
    static F sqrt(F a) { return vsqrtq_f32(a); }
    static M less(F a, F b) { return vcltq_f32(a, b); }
    static M both(M a, M b) { return vandq_u32(a, b); }
    static bool any(M a) { return vmaxvq_u32(a) != 0; }
    static F select(M m, F a, F b) { return vbslq_f32(m, a, b); }
    static F keep(F a, F b, int first, int last) {
        static constexpr int32_t kLanes[4] = {0, 1, 2, 3};
        const int32x4_t lane = vld1q_s32(kLanes);
        const uint32x4_t inside = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(first)), vcltq_s32(lane, vdupq_n_s32(last)));
        return vbslq_f32(inside, a, b);
    }

    static I izero() { return iset1(0); }
    static I iset1(int32_t x) { return {vdupq_n_s32(x)}; }
    template <int n>
    static I ishl(I a) {
        return {vshlq_n_s32(a.v, n)};
    }
    static F to_float(I a) { return vcvtq_f32_s32(a.v); }
    static I to_int(F a) { return {vcvtnq_s32_f32(a)}; }
    static F pow2(I a) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(a.v, vdupq_n_s32(127)), 23)); }
    static void store_i8(int8_t* p, I a) {
        const int16x4_t words = vqmovn_s32(a.v);
        const uint32_t bytes = vget_lane_u32(vreinterpret_u32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
        std::memcpy(p, &bytes, 4);
    }
    static int reduce_add(I a) { return vaddvq_s32(a.v); }

    static B bload(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
    static void bstore(void* p, B a) { vst1q_u8(static_cast<uint8_t*>(p), a); }
    static B bset1(uint8_t x) { return vdupq_n_u8(x); }
    static B broadcast4(const void* p) { return vreinterpretq_u8_u32(vdupq_n_u32(word(p))); }
    static B band(B a, B b) { return vandq_u8(a, b); }
    static B bor(B a, B b) { return vorrq_u8(a, b); }
    static B bor_masked(B a, B b, B mask) { return bor(a, band(b, mask)); }
    template <int n>
    static B shift(B a) {
        if constexpr (n > 0)
            return vshrq_n_u8(a, n);
        else if constexpr (n < 0)
            return vshlq_n_u8(a, -n);
        else
            return a;
    }
    static B table(const void* table16) { return bload(table16); }
    static B lookup(B table, B index) { return vqtbl1q_u8(table, index); }
#ifdef LOCALLLM_DOT_PRODUCT
    static I dot7(I sum, B weight, B x) {
        return {vdotq_s32(sum.v, vreinterpretq_s8_u8(weight), vreinterpretq_s8_u8(x))};
    }
#else
    // 128 * 127 * 2 still fits 16 bits, x never being -128, so pairs do not overflow.
    static I dot7(I sum, B weight, B x) {
        const int8x16_t w = vreinterpretq_s8_u8(weight), s = vreinterpretq_s8_u8(x);
        const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(s)), vmull_high_s8(w, s));
        return {vpadalq_s16(sum.v, pairs)};
    }
#endif
    static I dot8(I sum, B weight, B x) { return dot7(sum, veorq_u8(weight, vdupq_n_u8(0x80)), x); }

    static LOCALLLM_INLINE void prefetch(const void* p) { localllm::prefetch(p); }
    static LOCALLLM_INLINE void prefetch_far(const void* p) { localllm::prefetch(p); }

  private:
    static uint32_t word(const void* p) {
        uint32_t bytes;
        std::memcpy(&bytes, p, 4);
        return bytes;
    }
};

}  // namespace localllm
