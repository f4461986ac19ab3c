#include <algorithm>
#include <cmath>
#include <string>

#include "isa/kernels.h"
#include "measure/measure.h"
#include "tests/testing.h"

namespace localllm {

namespace {

bool plausible(double value) {
    return std::isfinite(value) && value > 0;
}

}  // namespace

void test_measure() {
    for (const Kernels* k : available_kernels()) {
        for (size_t blocks : {1, 2, 5}) {
            const Exact<uint8_t> data(blocks * kReadBlock);  // reads past the end are seen
            for (const auto& streams : k->probes.read)
                for (const auto read : streams) read(data.data(), data.size());
        }
        for (const DotProbe* probe : {&k->probes.int8, &k->probes.float32}) {
            const int each = std::string(probe->type) == "int8" ? 8 : 2;  // operations of 32 bits
            check(probe->operations % (each * probe->bits / 32) == 0, "%s: a round of broken vectors", k->name);
            probe->run(3);
        }
    }
    const std::vector<int> threads = {1, 3};
    for (size_t bytes : {kLeastMeasured, (size_t{8} << 20) + 12345}) {
        const MemoryRates memory = measure_memory(threads, bytes);
        check(memory.bytes >= bytes / 4 && memory.bytes <= bytes, "%zu bytes to measure became %zu", bytes,
              memory.bytes);
        check(memory.huge_bytes <= memory.bytes, "more huge pages than memory");
        const size_t ways = memory.huge_bytes ? 8 : 4;
        check(memory.rates.size() == ways * threads.size(), "%zu ways to read", memory.rates.size());
        for (const MemoryRate& rate : memory.rates) {
            check(plausible(rate.median) && rate.best >= rate.median, "memory is read at %g, at best %g", rate.median,
                  rate.best);
            check(rate.streams == 1 || rate.streams == 4, "%d streams", rate.streams);
            check(!rate.huge_pages || memory.huge_bytes, "a way with huge pages, but there are none");
        }
        for (size_t i = 0; i < ways; ++i)
            check(memory.rates[i].threads == 1 && memory.rates[ways + i].threads == 3, "numbers of threads mixed up");
    }
    const std::vector<DotRate> dots = measure_dots(2);
    const std::string widest = available_kernels()[0]->name;  // or, for "avx512bf16", what it adds to
    for (const char* type : {"int8", "float32"})
        check(std::any_of(dots.begin(), dots.end(),
                          [&](const DotRate& d) { return d.type == type && widest.starts_with(d.isa); }),
              "no %s products of the widest instruction set", type);
    for (const DotRate& d : dots) check(plausible(d.rate), "%s %s at %g", d.isa.c_str(), d.type.c_str(), d.rate);
    for (int n : {1, 2, 5}) check(plausible(measure_barrier(n)), "a barrier of %d threads takes no time", n);
}

}  // namespace localllm
