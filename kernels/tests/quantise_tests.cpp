#include <cmath>
#include <vector>

#include "isa/kernels.h"
#include "quant/quantisers.h"
#include "tests/testing.h"

namespace localllm {

namespace {

// Values of several kinds: usual weights, whole groups of zeros or of one value, outliers, the smallest and largest.
float draw(Random& random, int kind) {
    switch (kind) {
        case 0:
            return 0.02f * random.normal();
        case 1:
            return static_cast<float>(random.between(-2, 2));
        case 2:
            return random.below(50) ? 0.0f : random.normal();
        case 3:
            return std::ldexp(random.normal(), random.between(-140, -100));
        case 4:
            return -3.0f - random.uniform(0, 0.01f);
        default:
            return std::ldexp(random.uniform(-1, 1), random.between(100, 128));
    }
}

constexpr int kKinds = 6;

void compare_tables(Random& random, Type type, int kind, bool weighted) {
    const int cols = 256 * random.between(1, 2), rows = random.between(1, 37);
    const size_t n = static_cast<size_t>(rows) * cols;
    Exact<float> values(n), importance(cols);
    for (float& x : values) x = draw(random, kind);
    for (float& x : importance) x = random.below(4) ? random.uniform(0, 2) : 0.0f;
    const auto* data = reinterpret_cast<const uint8_t*>(values.data());
    const size_t bytes = n / format(type).block * format(type).bytes;
    Exact<uint8_t> first(bytes);
    Exact<float> back(n);
    for (const Kernels* k : available_kernels()) {
        Exact<uint8_t> out(bytes);
        const Quantised made = quantise(quantisers_of(k->name), type, Type::F32, data, rows, cols,
                                        weighted ? importance.data() : nullptr, random.between(1, 3), out.data());
        if (k == available_kernels().front()) {
            std::memcpy(first.data(), out.data(), bytes);
            dequantize(type, out.data(), n, back.data());
            double errors = 0;
            for (size_t i = 0; i < n; ++i) errors += std::pow(static_cast<double>(back[i]) - values[i], 2);
            if (kind < kKinds - 1) {
                check(made.bad_row == -1, "%s: a row that fits is refused", format(type).name);
                check(std::fabs(errors - made.errors) <= 1e-4 * errors + 1e-38, "%s: error %g, not %g",
                      format(type).name, made.errors, errors);
                check(errors <= made.squares * 1.001 + 1e-38, "%s: worse than zeros", format(type).name);
            }
        } else {
            check(std::memcmp(first.data(), out.data(), bytes) == 0, "%s: %s makes other bytes", format(type).name,
                  k->name);
        }
    }
}

void find_bad_rows(Random& random, Type type) {
    const int cols = 256, rows = 40, bad = random.below(rows);
    Exact<float> values = normals(random, static_cast<size_t>(rows) * cols);
    values[static_cast<size_t>(bad) * cols + random.below(cols)] = random.below(2) ? NAN : INFINITY;
    Exact<uint8_t> out(values.size() / format(type).block * format(type).bytes);
    for (const Kernels* k : available_kernels()) {
        const Quantised made =
            quantise(quantisers_of(k->name), type, Type::F32, reinterpret_cast<const uint8_t*>(values.data()), rows,
                     cols, nullptr, 2, out.data());
        check(made.bad_row == bad, "%s: row %d is not found", format(type).name, bad);
    }
}

}  // namespace

void test_quantise() {
    Random random(11);
    for (int t = 0; t < static_cast<int>(Type::count); ++t) {
        const auto type = static_cast<Type>(t);
        for (int kind = 0; kind < kKinds; ++kind)
            for (bool weighted : {false, true}) compare_tables(random, type, kind, weighted);
        find_bad_rows(random, type);
        // Any type is a source.
        const Exact<uint8_t> blocks = random_weight(random, type, 3 * 256);
        Exact<float> values(3 * 256);
        dequantize(type, blocks.data(), values.size(), values.data());
        Exact<uint8_t> direct(3 * 210), by_values(3 * 210);
        const Quantisers& with = quantisers_of(kernels().name);
        quantise(with, Type::Q6_K, type, blocks.data(), 3, 256, nullptr, 1, direct.data());
        quantise(with, Type::Q6_K, Type::F32, reinterpret_cast<const uint8_t*>(values.data()), 3, 256, nullptr, 1,
                 by_values.data());
        check(std::memcmp(direct.data(), by_values.data(), direct.size()) == 0, "%s is read otherwise as a source",
              format(type).name);
    }
}

}  // namespace localllm
