// Vector vocabulary: AVX2 + FMA + F16C, with AVX-VNNI where the translation unit is compiled for it. 8 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "isa/processor.h"

namespace localllm {

#ifdef __AVXVNNI__
#define LOCALLLM_AVX2 AvxVnni
#else
#define LOCALLLM_AVX2 Avx2
#endif

struct LOCALLLM_AVX2 {
    static constexpr int lanes = 8;
#ifdef __AVXVNNI__
    static constexpr bool dot8_needs_seed = true;
#else
    static constexpr bool dot8_needs_seed = false;
#endif
    static constexpr int columns = 4;
    static constexpr int slab_vectors = 1;  // row vectors times 4 columns that stay in registers
    using F = __m256;
    using I = __m256i;
    using B = __m256i;
    using M = __m256;

    static F zero() { return _mm256_setzero_ps(); }
    static F set1(float x) { return _mm256_set1_ps(x); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
    static F load_bf16(const void* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static void store_f16(void* p, F x) {
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static F load_i8(const void* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
    }
    static F load_u8(const void* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
    }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static float reduce_add(F a) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static float reduce_max(F a) {
        __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        s = _mm_max_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
    }
    static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F floor(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
    static F sqrt(F a) { return _mm256_sqrt_ps(a); }
    static M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
    static M both(M a, M b) { return _mm256_and_ps(a, b); }
    static bool any(M a) { return _mm256_movemask_ps(a) != 0; }
    static F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
    static F keep(F a, F b, int first, int last) {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane),
                                                   _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
        return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(inside));
    }

    static I izero() { return _mm256_setzero_si256(); }
    static I iset1(int32_t x) { return _mm256_set1_epi32(x); }
    template <int n>
    static I ishl(I a) {
        return _mm256_slli_epi32(a, n);
    }
    static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
    static I to_int(F a) { return _mm256_cvtps_epi32(a); }
    static F pow2(I a) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(127)), 23));
    }
    static void store_i8(int8_t* p, I a) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }
    static int reduce_add(I a) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
    }

    static B bload(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static void bstore(void* p, B a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
    static B bset1(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
    static B broadcast4(const void* p) {
        int32_t word;
        std::memcpy(&word, p, 4);
        return _mm256_set1_epi32(word);
    }
    static B band(B a, B b) { return _mm256_and_si256(a, b); }
    static B bor(B a, B b) { return _mm256_or_si256(a, b); }
    static B bor_masked(B a, B b, B mask) { return bor(a, band(b, mask)); }
    template <int n>
    static B shift(B a) {
        if constexpr (n > 0)
            return _mm256_srli_epi16(a, n);
        else if constexpr (n < 0)
            return _mm256_slli_epi16(a, -n);
        else
            return a;
    }
    static B table(const void* table16) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(table16)));
    }
    static B lookup(B table, B index) { return _mm256_shuffle_epi8(table, index); }
#ifdef __AVXVNNI__
    static I dot7(I sum, B weight, B x) { return _mm256_dpbusd_avx_epi32(sum, weight, x); }
    static I dot8(I sum, B weight, B x) { return _mm256_dpbusd_avx_epi32(sum, weight, x); }
#else
    // 127 * 127 * 2 still fits 16 bits, so pairs never saturate.
    static I dot7(I sum, B weight, B x) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weight, x), _mm256_set1_epi16(1)));
    }
    // The sign trick: |w| * (sign(w) x); x is never -128, so it can be negated.
    static I dot8(I sum, B weight, B x) {
        const __m256i w = _mm256_xor_si256(weight, _mm256_set1_epi8(static_cast<char>(0x80)));
        return dot7(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    }
#endif

    // Inlined before GCC looks for calls without effect, or it would drop them.
    static LOCALLLM_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
    static LOCALLLM_INLINE void prefetch_far(const void* p) {
        _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
    }  // second cache
};

}  // namespace localllm
