// What the machine can do at most: how fast it reads memory, multiplies, and waits for its own threads.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace localllm {

// Reading memory in one way: each thread claims parts and reads them as `streams` streams side by side.
struct MemoryRate {
    int threads, streams;
    bool prefetch;        // 4 KiB ahead
    bool huge_pages;      // of the buffer that asked for them; the others are told to do without
    double median, best;  // bytes per second, all threads together
};

struct MemoryRates {
    size_t bytes;       // of a buffer; there are two where the system has huge pages on request
    size_t huge_bytes;  // of those that asked, how much really lies in huge pages
    std::vector<MemoryRate> rates;
};

// Every way with every number of threads in about half a second; `bytes` in all should be several times the last-level
// cache. Without a huge page the ways that need them are left out. Throws std::bad_alloc.
MemoryRates measure_memory(const std::vector<int>& threads, size_t bytes);
constexpr size_t kLeastMeasured = size_t{1} << 20;

// Multiplications and additions of one kind, in registers only.
struct DotRate {
    std::string isa, type;  // type of the operands: "int8" (unsigned by signed), "float32", "bf16"
    int bits;               // of a vector
    double rate;            // operations per second, all threads together
};

// Of every instruction set that runs here; of plain C++ only where there is no other. Some 10 milliseconds.
std::vector<DotRate> measure_dots(int threads);

// Seconds of one barrier of the thread pool, at best.
double measure_barrier(int threads);

}  // namespace localllm
