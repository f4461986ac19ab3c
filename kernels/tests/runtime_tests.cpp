// What programs stand on: threads, packed weights, memory.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "runtime/memory.h"
#include "runtime/program.h"
#include "tests/testing.h"

namespace localllm {

void test_threads() {
    for (int size = 1; size <= 8; ++size)
        for (int round = 0; round < 20; ++round) {
            ThreadPool pool(size);  // started and stopped often, sometimes without work
            for (int i = 0; i < round % 3; ++i) {
                std::atomic<int> seen{0};
                pool.run([&](Team&) { ++seen; });
                check(seen == size, "a thread did not run");
            }
        }
    for (int size : {1, 2, 3, 4, 8}) {
        ThreadPool pool(size);
        std::vector<int> plain(size);  // written without atomics: the barriers order it
        int64_t total = 0;
        const int runs = 3000 / size;
        for (int run = 0; run < runs; ++run) {
            const int barriers = run % 4;
            pool.run([&](Team& team) {
                for (int b = 0; b <= barriers; ++b) {
                    plain[team.index] = run + b + team.index;
                    team.barrier();
                    if (team.index == b % team.size)
                        for (int i = 0; i < size; ++i) total += plain[i] - run - b - i + 1;
                    team.barrier();
                }
            });
            if (run % 97 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // long enough to fall asleep
        }
        int64_t wanted = 0;
        for (int run = 0; run < runs; ++run) wanted += static_cast<int64_t>(run % 4 + 1) * size;
        check(total == wanted, "%d threads passed their barriers out of step", size);
    }
    for (int size : {1, 2, 3, 7})
        for (int64_t n : {0, 1, 2, 6, 7, 8, 63, 64, 65, 1000})
            for (int64_t grain : {1, 16, 64}) {
                ThreadPool pool(size);
                std::vector<std::atomic<int>> taken(n);
                pool.run([&](Team& team) {
                    const auto [begin, end] = team.share(n, grain);
                    for (int64_t i = begin; i < end; ++i) ++taken[i];
                });
                for (const auto& count : taken)
                    check(count == 1, "shares of %d threads do not part %d items", size, static_cast<int>(n));
            }
}

// Weights packed for a file are the weights packed in memory, and the checksum tells one byte.
void test_packing() {
    Random random(7);
    for (int t = 0; t < static_cast<int>(Type::count); ++t) {
        const Type type = static_cast<Type>(t);
        const int matrices = random.between(1, 3), rows = random.between(1, 70), cols = 256 * random.between(1, 3);
        const Exact<uint8_t> data = random_weight(random, type, static_cast<int64_t>(matrices) * rows * cols);
        Program program(3, kernels());
        const PackedMatrix& whole = program.weights[program.add_weight({type, matrices, rows, cols}, data.data())];
        // Two of them around the end of a huge page of the file, and with something before the first.
        const int64_t bytes = static_cast<int64_t>(whole.bytes()), piece = static_cast<int64_t>(kHugePage);
        const int64_t first = piece - 64 * random.between(0, static_cast<int>(bytes / 64)), second = first + bytes + 64;
        const std::vector<Program::Source> sources{{whole, data.data(), first}, {whole, data.data(), second}};
        std::vector<uint8_t> file(static_cast<size_t>(second + bytes + piece), 0xff);
        const auto write = [&](const uint8_t* part, size_t size, int64_t offset) {
            check(offset >= first && offset + static_cast<int64_t>(size) <= static_cast<int64_t>(file.size()),
                  "a part leaves the weights");
            check((offset + static_cast<int64_t>(size)) % piece == 0, "a part ends within a huge page");
            std::memcpy(file.data() + offset, part, size);
            return 0;
        };
        std::vector<uint64_t> sums;
        check(program.pack_weights(sources, write, sums) == 0, "packing broke off");
        Exact<uint8_t> parts(whole.bytes());
        for (int64_t place : {first, second}) {
            std::copy(file.begin() + place, file.begin() + place + bytes, parts.begin());
            check(std::equal(parts.begin(), parts.end(), whole.data), "%s: the parts differ", format(type).name);
        }
        const PackedMatrix& added = program.weights[program.add_packed({type, matrices, rows, cols}, parts.data())];
        check(added.panel(matrices - 1, 0) == parts.data() + (matrices - 1) * added.panels * added.panel_bytes,
              "a packed weight lies elsewhere");
        const uint64_t sum = program.checksum(whole.data, whole.bytes());
        check(sum == program.checksum(parts.data(), parts.size()), "equal bytes, other checksums");
        check(sums == std::vector<uint64_t>{sum, sum}, "%s: packing found another checksum", format(type).name);
        parts[random.below(static_cast<int>(parts.size()))] ^= 1 << random.below(8);
        check(sum != program.checksum(parts.data(), parts.size()), "a changed bit, the same checksum");
        std::copy(whole.data, whole.data + whole.bytes(), parts.begin());
        std::swap_ranges(parts.begin(), parts.begin() + 64, parts.begin() + 256);
        check(sum != program.checksum(parts.data(), parts.size()) || std::equal(parts.begin(), parts.end(), whole.data),
              "words that changed places, the same checksum");
        std::atomic<int> calls{0};
        const auto fail = [&](const uint8_t*, size_t, int64_t) {
            ++calls;
            return 5;
        };
        check(program.pack_weights(sources, fail, sums) == 5, "a failed write went unnoticed");
        check(calls <= 3, "writes went on after one failed");
    }
}

void test_memory() {
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}, (size_t{8} << 20) + 1, size_t{20} << 20}) {
        Memory memory(bytes), other;
        check(memory.bytes() == bytes, "memory has another size");
        if (bytes) {
            check(reinterpret_cast<uintptr_t>(memory.data()) % 64 == 0, "memory is not aligned");
            check(memory.data()[0] == 0 && memory.data()[bytes - 1] == 0, "memory is not zero");
            memory.data()[bytes - 1] = 1;
        }
        other = std::move(memory);
        Memory third(std::move(other));
        check(third.bytes() == bytes && (!bytes || third.data()[bytes - 1] == 1), "memory does not move");
    }
    Arena arena;
    std::vector<uint8_t*> parts;
    for (int i = 0; i < 50; ++i) {
        parts.push_back(arena.take(static_cast<size_t>(i) * 100000 + 1));
        std::memset(parts.back(), i + 1, static_cast<size_t>(i) * 100000 + 1);
    }
    for (int i = 0; i < 50; ++i)
        check(*parts[i] == i + 1 && parts[i][i * 100000] == i + 1, "parts of an arena overlap");
}

}  // namespace localllm
