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

// Lets a spinning thread leave the core's units to others.
inline void pause() {
#if defined(LOCALLLM_X86)
    _mm_pause();
#elif defined(LOCALLLM_MSVC)
    __yield();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
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

}  // namespace localllm
