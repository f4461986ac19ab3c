#include "measure/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <limits>

#include "isa/kernels.h"
#include "isa/processor.h"
#include "quant/format.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

#ifndef _WIN32
#include <sys/mman.h>
#endif

namespace localllm {

#ifdef LOCALLLM_X86
extern const DotProbe kNarrowAvx512Probe, kBf16Probe;
#endif

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// Memory that a measurement reads. What is never written would be one page of zeros in the first cache.
class Buffer {
  public:
    Buffer(size_t bytes, bool huge, ThreadPool& pool) : memory_(bytes + huge_page()), bytes_(bytes) {
        const size_t start = reinterpret_cast<size_t>(memory_.data());
        data_ = memory_.data() + (huge_page() - start % huge_page());
#ifdef MADV_HUGEPAGE
        madvise(data_, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
        (void)huge;
#endif
        pool.run([&](Team& team) {
            const auto [from, to] = team.share(static_cast<int64_t>(bytes), static_cast<int64_t>(huge_page()));
            for (int64_t i = from; i < to; i += 4096) data_[i] = 1;
        });
    }
    const uint8_t* data() const { return data_; }
    size_t bytes() const { return bytes_; }

    // Bytes in huge pages, as Linux tells of each mapping.
    size_t huge_bytes() const {
        size_t found = 0;
#ifdef __linux__
        const uintptr_t first = reinterpret_cast<uintptr_t>(data_), last = first + bytes_;
        uintptr_t from = 0, to = 0;
        bool inside = false;
        std::ifstream file("/proc/self/smaps");
        for (std::string line; std::getline(file, line);) {
            size_t kilobytes = 0;
            if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
                inside = from < last && first < to;
            else if (inside && std::sscanf(line.c_str(), "AnonHugePages: %zu kB", &kilobytes) == 1)
                found += kilobytes << 10;
        }
#endif
        return std::min(found, bytes_);
    }

    static bool on_request() {
#ifdef MADV_HUGEPAGE
        return true;
#else
        return false;
#endif
    }

  private:
    Memory memory_;
    uint8_t* data_;
    size_t bytes_;

    static size_t huge_page() {
        static const size_t size = [] {
            size_t read = 0;
            std::ifstream("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") >> read;
            return read ? read : size_t{2} << 20;
        }();
        return size;
    }
};

// One pass over a window of a buffer, which wraps around; bytes per second.
double read_rate(ThreadPool& pool, const Buffer& buffer, size_t part, int first, int parts,
                 void (*read)(const uint8_t*, size_t)) {
    const int all = static_cast<int>(buffer.bytes() / part);
    std::atomic<int> next{0};
    std::vector<Clock::time_point> starts(pool.size()), ends(pool.size());
    pool.run([&](Team& team) {
        team.barrier();
        starts[team.index] = Clock::now();
        for (int i = next.fetch_add(1); i < parts; i = next.fetch_add(1))
            read(buffer.data() + static_cast<size_t>((first + i) % all) * part, part);
        ends[team.index] = Clock::now();
    });
    const double taken =
        seconds(*std::min_element(starts.begin(), starts.end()), *std::max_element(ends.begin(), ends.end()));
    return static_cast<double>(part) * parts / taken;
}

}  // namespace

MemoryRates measure_memory(const std::vector<int>& threads, size_t bytes) {
    constexpr double budget = 0.4;               // seconds of reading, shared by the numbers of threads
    constexpr int least = 3, window = 32;        // passes of each way; parts of a pass for each thread
    constexpr size_t longest = size_t{4} << 20;  // bytes of a part
    const int most = *std::max_element(threads.begin(), threads.end());
    ThreadPool all(most);
    const int kinds = Buffer::on_request() ? 2 : 1;
    const size_t part = std::clamp(bytes / kinds / (window * most) / kReadBlock * kReadBlock, kReadBlock, longest);
    const size_t each = bytes / kinds / part * part;
    std::vector<Buffer> buffers;
    for (int huge = 0; huge < kinds; ++huge) buffers.emplace_back(each, huge, all);
    MemoryRates found{each, kinds > 1 ? buffers[1].huge_bytes() : 0, {}};
    const int parts = static_cast<int>(each / part);

    for (const int n : threads) {
        ThreadPool pool(n);
        struct Way {
            int huge, four, prefetch;
            std::vector<double> rates;
        };
        std::vector<Way> ways;
        for (int huge = 0; huge <= (found.huge_bytes ? 1 : 0); ++huge)
            for (int four : {0, 1})
                for (int prefetch : {0, 1}) ways.push_back({huge, four, prefetch, {}});
        // In turns, so that a machine that slows down slows them all. Each pass goes on where the last one in its
        // buffer ended: nothing is read again while it may still be in a cache.
        int first[2] = {0, 0};
        const auto start = Clock::now();
        for (int i = 0; i < least || seconds(start, Clock::now()) < budget / static_cast<double>(threads.size()); ++i)
            for (Way& way : ways) {
                const int count = std::min(window * n, parts);
                way.rates.push_back(read_rate(pool, buffers[way.huge], part, first[way.huge], count,
                                              kernels().probes.read[way.four][way.prefetch]));
                first[way.huge] = (first[way.huge] + count) % parts;
            }
        for (const Way& way : ways)
            found.rates.push_back({n, way.four ? 4 : 1, way.prefetch != 0, way.huge != 0, median(way.rates),
                                   *std::max_element(way.rates.begin(), way.rates.end())});
    }
    return found;
}

std::vector<DotRate> measure_dots(int threads) {
    struct Named {
        std::string isa;
        const DotProbe* probe;
    };
    std::vector<Named> probes;
    for (const Kernels* k : available_kernels()) {
        const std::string name = k->name;
        if (name == "scalar" && !probes.empty()) continue;
#ifdef LOCALLLM_X86
        if (name == "avx512bf16") {  // avx512 and one instruction
            probes.push_back({name, &kBf16Probe});
            continue;
        }
#endif
        probes.push_back({name, &k->probes.int8});
        probes.push_back({name, &k->probes.float32});
#ifdef LOCALLLM_X86
        if (name == "avx512") probes.push_back({name, &kNarrowAvx512Probe});
#endif
    }
    constexpr int tries = 10;
    constexpr int64_t operations = int64_t{1} << 26;  // of a try: a few tenths of a millisecond
    ThreadPool pool(threads);
    std::vector<DotRate> found;
    for (const auto& [isa, probe] : probes) {
        std::vector<double> best(threads);
        const int rounds = static_cast<int>(operations / probe->operations);
        pool.run([&](Team& team) {
            for (int i = 0; i < tries; ++i) {
                team.barrier();
                const auto start = Clock::now();
                probe->run(rounds);
                const double rate = static_cast<double>(rounds) * probe->operations / seconds(start, Clock::now());
                best[team.index] = std::max(best[team.index], rate);
            }
        });
        double sum = 0;
        for (double rate : best) sum += rate;
        found.push_back({isa, probe->type, probe->bits, sum});
    }
    return found;
}

double measure_barrier(int threads) {
    constexpr int barriers = 50;
    constexpr double budget = 0.01;
    ThreadPool pool(threads);
    double best = std::numeric_limits<double>::infinity();
    const auto start = Clock::now();
    do {
        pool.run([&](Team& team) {
            team.barrier();
            const auto from = Clock::now();
            for (int i = 0; i < barriers; ++i) team.barrier();
            if (team.index == 0) best = std::min(best, seconds(from, Clock::now()) / barriers);
        });
    } while (seconds(start, Clock::now()) < budget);
    return best;
}

}  // namespace localllm
