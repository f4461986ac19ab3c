// Vector vocabulary: AVX-512 (F, BW, DQ, VL, VNNI). 16 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "isa/processor.h"

namespace localllm {

struct Avx512 {
    static constexpr int lanes = 16;
    // dot8 multiplies unsigned by signed bytes, so a weight stored + 128 needs its accumulator seeded with -128 * sum.
    static constexpr bool dot8_needs_seed = true;
    static constexpr int columns = 8;       // widest column tile that stays in registers
    static constexpr int slab_vectors = 2;  // row vectors times 4 columns that stay in registers
    using F = __m512;
    using I = __m512i;
    using B = __m512i;
    using M = __mmask16;

    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
    static F load_bf16(const void* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
    static void store_f16(void* p, F x) {
        _mm256_storeu_si256(static_cast<__m256i*>(p),
                            _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static F load_i8(const void* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
    }
    static F load_u8(const void* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
    }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }    // a * b + c
    static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F abs(F a) { return _mm512_abs_ps(a); }
    static float reduce_add(F a) { return _mm512_reduce_add_ps(a); }
    static float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
    static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
    static F sqrt(F a) { return _mm512_sqrt_ps(a); }
    static M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }  // false where either is NaN
    static M both(M a, M b) { return static_cast<M>(a & b); }
    static bool any(M a) { return a != 0; }
    static F select(M m, F a, F b) { return _mm512_mask_mov_ps(b, m, a); }  // a where m is set
    // Lanes first <= i < last keep `a`, the others take `b`.
    static F keep(F a, F b, int first, int last) {
        const uint32_t low = first >= 16 ? 0xffff : (1u << (first < 0 ? 0 : first)) - 1;
        const uint32_t high = last >= 16 ? 0xffff : (1u << (last < 0 ? 0 : last)) - 1;
        return _mm512_mask_mov_ps(b, static_cast<__mmask16>(high & ~low), a);
    }

    static I izero() { return _mm512_setzero_si512(); }
    static I iset1(int32_t x) { return _mm512_set1_epi32(x); }
    template <int n>
    static I ishl(I a) {
        return _mm512_slli_epi32(a, n);
    }
    static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static I to_int(F a) { return _mm512_cvtps_epi32(a); }
    static F pow2(I a) {  // 2^a for -126 <= a <= 127
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23));
    }
    static void store_i8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a)); }
    static int reduce_add(I a) { return _mm512_reduce_add_epi32(a); }

    static B bload(const void* p) { return _mm512_loadu_si512(p); }
    static void bstore(void* p, B a) { _mm512_storeu_si512(p, a); }
    static B bset1(uint8_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
    static B broadcast4(const void* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return _mm512_set1_epi32(word);
    }
    static B band(B a, B b) { return _mm512_and_si512(a, b); }
    static B bor(B a, B b) { return _mm512_or_si512(a, b); }
    static B bor_masked(B a, B b, B mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xf8); }  // a | (b & mask)
    // Byte-wise only where the caller masks the bits that cross bytes.
    template <int n>
    static B shift(B a) {  // right for n > 0, left for n < 0
        if constexpr (n > 0)
            return _mm512_srli_epi16(a, n);
        else if constexpr (n < 0)
            return _mm512_slli_epi16(a, -n);
        else
            return a;
    }
    static B table(const void* table16) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(table16)));
    }
    static B lookup(B table, B index) { return _mm512_shuffle_epi8(table, index); }
    static I dot7(I sum, B weight, B x) { return _mm512_dpbusd_epi32(sum, weight, x); }  // weight <= 127
    static I dot8(I sum, B weight, B x) { return _mm512_dpbusd_epi32(sum, weight, x); }  // weight stored + 128

    // Inlined before GCC looks for calls without effect, or it would drop them.
    static LOCALLLM_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_NTA); }
    static LOCALLLM_INLINE void prefetch_far(const void* p) {
        _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
    }  // second cache
};

}  // namespace localllm
