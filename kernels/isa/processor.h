// What the language cannot ask of the processor, for GCC, Clang and MSVC: all that differs between them stands here.
#pragma once

#include <cstdint>

#if defined(_MSC_VER) && !defined(__clang__)
#define LOCALLLM_MSVC
#include <intrin.h>
#elif defined(LOCALLLM_X86)
#include <cpuid.h>
#include <immintrin.h>
#endif

#if defined(LOCALLLM_ARM64) && defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#elif defined(LOCALLLM_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

// A kernel's parts become one loop whose sums stay in registers only when each of them is inlined and unrolled.
#ifdef LOCALLLM_MSVC
#define LOCALLLM_INLINE __forceinline
#define LOCALLLM_INLINE_LAMBDA
#define LOCALLLM_UNROLL
#else
#define LOCALLLM_INLINE __attribute__((always_inline)) inline
#define LOCALLLM_INLINE_LAMBDA __attribute__((always_inline))
#define LOCALLLM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace localllm {

// Lets a spinning thread leave the core's units to others for some tens of cycles. ARM's `yield` does nothing on cores
// that run one thread; its instruction barrier waits about as long as x86's pause.
inline void pause() {
#if defined(LOCALLLM_X86)
    _mm_pause();
#elif defined(LOCALLLM_MSVC)
    __isb(_ARM64_BARRIER_SY);
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

#ifdef LOCALLLM_X86
struct Registers {
    uint32_t a, b, c, d;
};

// All zero for a leaf the processor does not have.
inline Registers cpuid(uint32_t leaf, uint32_t sub) {
    Registers r{};
#ifdef LOCALLLM_MSVC
    int out[4];
    __cpuid(out, 0);
    if (static_cast<uint32_t>(out[0]) < leaf) return r;
    __cpuidex(out, static_cast<int>(leaf), static_cast<int>(sub));
    r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
         static_cast<uint32_t>(out[3])};
#else
    __get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d);
#endif
    return r;
}

// Register state the operating system saves (XCR0).
inline uint64_t saved_state() {
#ifdef LOCALLLM_MSVC
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}
#endif

#ifdef LOCALLLM_ARM64
// Whether the processor has the dot product extension (FEAT_DotProd). ARM has no instruction that tells a program.
inline bool has_dot_product() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
    return true;  // since the first of Apple's processors for the Mac
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE);
#else
    return false;
#endif
}
#endif

// Asks for a cache line that will soon be read; any address is allowed.
LOCALLLM_INLINE void prefetch(const void* p) {
#if defined(LOCALLLM_MSVC) && defined(LOCALLLM_X86)
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#elif defined(LOCALLLM_MSVC)
    __prefetch(p);
#else
    __builtin_prefetch(p);
#endif
}

}  // namespace localllm
