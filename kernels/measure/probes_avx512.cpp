// What AVX-512 has besides its vocabulary: products of bfloat16, and vectors of half the width with 32 registers.
#include <immintrin.h>

#include <bit>

#include "measure/probes.h"

namespace localllm {

namespace {

constexpr int kSums = 16;
using Sums = std::make_integer_sequence<int, kSums>;

template <int... i>
void multiply_int8_256(int rounds, std::integer_sequence<int, i...>) {
    const auto step = [](__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_epi32(sum, w, x); };
    multiply(rounds, step, _mm256_set1_epi8(3), _mm256_set1_epi8(5), _mm256_set1_epi32(i)...);
}

template <int... i>
void multiply_bf16(int rounds, std::integer_sequence<int, i...>) {
    const auto step = [](__m512 sum, __m512i w, __m512i x) {
        return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(w), std::bit_cast<__m512bh>(x));
    };
    const __m512i half = _mm512_set1_epi16(0x3f00);
    multiply(rounds, step, half, half, _mm512_set1_ps(i)...);
}

}  // namespace

extern const DotProbe kNarrowAvx512Probe, kBf16Probe;
constinit const DotProbe kNarrowAvx512Probe = {"int8", 256, 8 * 8 * kSums,
                                               [](int rounds) { multiply_int8_256(rounds, Sums()); }};
constinit const DotProbe kBf16Probe = {"bf16", 512, 4 * 16 * kSums, [](int rounds) { multiply_bf16(rounds, Sums()); }};

}  // namespace localllm
