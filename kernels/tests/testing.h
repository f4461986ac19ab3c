// What the tests of the rooms share: checks, random numbers and weights, and memory of its exact size, so that a load
// or store past an end is seen by the sanitizers.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "quant/format.h"

namespace localllm {

inline int passed = 0;

// Counts a check that is right; ends the process with a line, in printf's form, for one that is not.
void check(bool right, const char* form, ...);

// xorshift64*
struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 2654435761u + 88172645463325252u) {}
    uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<uint32_t>((state * 2685821657736338717u) >> 32);
    }
    int below(int n) { return static_cast<int>(next() % static_cast<uint32_t>(n)); }
    int between(int low, int high) { return low + below(high - low + 1); }
    float uniform(float low, float high) { return low + (high - low) * (static_cast<float>(next() >> 8) * 0x1p-24f); }
    float normal() {  // nearly
        float sum = 0;
        for (int i = 0; i < 6; ++i) sum += uniform(-1, 1);
        return sum * 0.70710678f;
    }
    template <class T>
    const T& pick(const std::vector<T>& from) {
        return from[below(static_cast<int>(from.size()))];
    }
};

// Heap memory of exactly n elements, 64-byte aligned and zero.
template <class T>
class Exact {
  public:
    explicit Exact(size_t n)
        : n_(n), data_(static_cast<T*>(::operator new(std::max<size_t>(n * sizeof(T), 1), std::align_val_t(64)))) {
        std::memset(static_cast<void*>(data_), 0, n * sizeof(T));
    }
    Exact(Exact&& other) noexcept : n_(other.n_), data_(std::exchange(other.data_, nullptr)) {}
    ~Exact() { ::operator delete(data_, std::align_val_t(64)); }
    T* data() const { return data_; }
    size_t size() const { return n_; }
    T& operator[](size_t i) const { return data_[i]; }
    T* begin() const { return data_; }
    T* end() const { return data_ + n_; }

  private:
    size_t n_;
    T* data_;
};

Exact<float> normals(Random& random, size_t n, float size = 1);

// GGUF bytes of a weight: every code random, the fp16 fields of moderate size and either sign.
Exact<uint8_t> random_weight(Random& random, Type type, int64_t elements);

// `x` as the kernels see it when it is quantised in runs.
std::vector<double> requantised(const float* x, int n, int run);
// `x` as the kernels see it in pairs of bfloat16.
std::vector<double> rounded_to_bfloat(const float* x, int n);

void test_half();
void test_quantise();
void test_linear();
void test_elementwise();
void test_conversions();
void test_not_finite();
void test_attention();
void test_attention_both_ways();
void test_threads();
void test_packing();
void test_memory();
void test_measure();
void test_largest();
void test_encoder();
void test_experts_room();
void test_programs();
void test_outputs();
void test_squares();
void test_squares_of_routed_rows();

}  // namespace localllm
