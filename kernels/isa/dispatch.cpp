// Which instruction sets this processor and operating system support, and which one is used.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

#include "isa/kernels.h"
#include "isa/processor.h"

namespace localllm {

namespace {

#ifdef LOCALLLM_X86
bool bit(uint32_t word, int index) {
    return (word >> index) & 1;
}

// Made when it is asked for, by code that every processor runs: not when the module is loaded.
const Kernels& avx512bf16_kernels() {
    static const Kernels made = [] {
        Kernels kernels = kAvx512Kernels;
        kernels.name = "avx512bf16";
        multiply_bf16(kernels);
        return kernels;
    }();
    return made;
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#ifdef LOCALLLM_X86
    const Registers one = cpuid(1, 0), seven = cpuid(7, 0), seven1 = cpuid(7, 1);
    const uint64_t saved = bit(one.c, 27) ? saved_state() : 0;
    const bool avx2 = (saved & 6) == 6 && bit(one.c, 28) && bit(one.c, 12) && bit(one.c, 29) && bit(seven.b, 5);
    const bool avx512 = avx2 && (saved & 0xe6) == 0xe6 && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) &&
                        bit(seven.b, 31) && bit(seven.c, 11);
    if (avx512 && bit(seven1.a, 5)) found.push_back(&avx512bf16_kernels());
    if (avx512) found.push_back(&kAvx512Kernels);
    if (avx2 && bit(seven1.a, 4)) found.push_back(&kAvxVnniKernels);
    if (avx2) found.push_back(&kAvx2Kernels);
#elif defined(LOCALLLM_ARM64)
    if (has_dot_product()) found.push_back(&kNeonDotKernels);
    found.push_back(&kNeonKernels);
#endif
    found.push_back(&kScalarKernels);
    return found;
}

double measured_rate(const Kernels& k) {
    constexpr Type type = Type::Q4_0;
    constexpr int cols = 512, tile_columns = 4, slot = 2, calls = 8, tries = 5;
    const PackedMatrix shape(type, 1, kPanelRows, cols);
    std::vector<uint8_t> panel(shape.panel_bytes + 64), tile(QuantTile::bytes(tile_columns, cols) + 64);
    auto aligned = [](std::vector<uint8_t>& v) {
        return reinterpret_cast<uint8_t*>(align64(reinterpret_cast<size_t>(v.data())));
    };
    const QuantTile x(aligned(tile), tile_columns, cols);
    alignas(64) float y[kTileColumns * kPanelRows];
    double best = 0;
    for (int i = 0; i < tries; ++i) {
        const auto start = std::chrono::steady_clock::now();
        for (int j = 0; j < calls; ++j) k.quantised[static_cast<int>(type)][slot](aligned(panel), cols, x, y);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        best = std::max(best, 2.0 * kPanelRows * cols * tile_columns * calls / taken.count());
    }
    return best;
}

const Kernels& kernels() {
    static const Kernels& chosen = []() -> const Kernels& {
        const auto available = available_kernels();
        const char* wanted = std::getenv("LOCALLLM_ISA");
        if (!wanted || !*wanted) {
            constexpr int type = static_cast<int>(Type::Q4_0);  // what measured_rate multiplies
            const Kernels* best = available.front();
            double most = measured_rate(*best);
            for (const Kernels* k : available) {
                if (k == &kScalarKernels || k->quantised[type][2] == best->quantised[type][2]) continue;
                const double rate = measured_rate(*k);
                if (rate > 1.25 * most) best = k, most = rate;
            }
            return *best;
        }
        std::string names;
        for (const Kernels* k : available) {
            if (std::string(wanted) == k->name) return *k;
            names += names.empty() ? k->name : std::string(", ") + k->name;
        }
        throw std::runtime_error("LOCALLLM_ISA=" + std::string(wanted) + " is not available here; available: " + names);
    }();
    return chosen;
}

}  // namespace localllm
