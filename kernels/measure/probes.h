// Loops that only read memory or only multiply, built for each instruction set: what its kernels could reach at most.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "isa/processor.h"

namespace localllm {

constexpr size_t kReadBlock = 1024;  // what is read comes in multiples of this, aligned to 64 bytes

struct DotProbe {
    const char* type;  // of the operands: "int8", "float32", "bf16"
    int bits;          // of one vector
    int operations;    // of one round; a multiplication and its addition count as two
    void (*run)(int rounds);
};

struct Probes {
    void (*read[2][2])(const uint8_t* data, size_t bytes);  // [one stream, four][plain, prefetch]
    DotProbe int8, float32;
};

// The compiler has to have the value here, and knows nothing of it afterwards: the work that leads to it cannot be left
// out, and what is computed from it cannot be moved out of a loop.
template <class T>
inline void launder(T& x) {
#if defined(LOCALLLM_MSVC)
    static const void* volatile seen;  // no inline assembly: the value goes through memory
    seen = &x;
    _ReadWriteBarrier();
#else
    if constexpr (std::is_class_v<T>)
        __asm__ volatile("" : "+m"(x));
    else
#ifdef __aarch64__
        __asm__ volatile("" : "+w"(x));
#else
        __asm__ volatile("" : "+v"(x));
#endif
#endif
}

// The bytes as `streams` equal parts that are read side by side. Several vectors collect them, so that no load waits
// for the one before it.
template <class V, int streams, bool prefetch>
void read(const uint8_t* data, size_t bytes) {
    constexpr size_t line = 64, run = 256 / streams, ahead = 4096, vector = 4 * V::lanes;
    const size_t part = bytes / streams;
    typename V::B sum[streams][256 / streams / vector];
    for (auto& stream : sum)
        for (auto& s : stream) s = V::bset1(0);
    for (size_t at = 0; at < part; at += run)
        for (int stream = 0; stream < streams; ++stream) {
            const uint8_t* p = data + stream * part + at;
            if constexpr (prefetch)
                for (size_t i = 0; i < run; i += line) V::prefetch(p + i + ahead);
            for (size_t i = 0; i < run / vector; ++i) sum[stream][i] = V::bor(sum[stream][i], V::bload(p + i * vector));
        }
    for (auto& stream : sum)
        for (auto& s : stream) launder(s);
}

// Sums that do not wait for each other, and that stay in registers together with the operands: a unit that starts two
// multiplications a cycle and takes five cycles for one needs ten. Vectors of 8 lanes (AVX2) have 16 registers, others
// 32. An array of sums would lie in memory, or be copied in every round; parameters do not.
template <class V>
using ProbeSums = std::make_integer_sequence<int, V::lanes == 8 ? 12 : 16>;

// step(sum, w, x) for every sum in each round.
template <class Step, class Operand, class... Sum>
void multiply(int rounds, Step step, Operand w, Operand x, Sum... sum) {
    for (int r = 0; r < rounds; ++r) ((launder(w), sum = step(sum, w, x)), ...);
    (launder(sum), ...);
}

// The sums start unequal, or the compiler would keep only one.
template <class V, int... i>
void multiply_int8(int rounds, std::integer_sequence<int, i...>) {
    const auto step = [](typename V::I sum, typename V::B w, typename V::B x) { return V::dot7(sum, w, x); };
    multiply(rounds, step, V::bset1(3), V::bset1(5), V::iset1(i)...);
}

template <class V, int... i>
void multiply_float32(int rounds, std::integer_sequence<int, i...>) {
    const auto step = [](typename V::F sum, typename V::F w, typename V::F x) { return V::fma(w, x, sum); };
    multiply(rounds, step, V::set1(0.5f), V::set1(0.25f), V::set1(i)...);
}

template <class V>
constexpr Probes make_probes() {
    constexpr int bits = 32 * V::lanes, sums = static_cast<int>(ProbeSums<V>::size());
    return {{{read<V, 1, false>, read<V, 1, true>}, {read<V, 4, false>, read<V, 4, true>}},
            {"int8", bits, 8 * V::lanes * sums, [](int rounds) { multiply_int8<V>(rounds, ProbeSums<V>()); }},
            {"float32", bits, 2 * V::lanes * sums, [](int rounds) { multiply_float32<V>(rounds, ProbeSums<V>()); }}};
}

}  // namespace localllm
