#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/largest.h"
#include "tests/testing.h"

namespace localllm {

void test_largest() {
    Random random(11);
    constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    for (int round = 0; round < 500; ++round) {
        const int n = random.between(1, 700), wanted = random.between(1, random.below(2) ? 20 : 800);
        Exact<double> values(n);
        const int kind = random.below(4);
        for (int i = 0; i < n; ++i)
            values[i] = kind == 0   ? i
                        : kind == 1 ? random.below(8)  // many that are equal
                        : kind == 2 ? random.pick<double>({1, 0.0, -0.0, infinity, -infinity, nan, -nan})
                                    : random.normal();
        const auto rank = [&](int64_t i) { return std::isnan(values[i]) ? infinity : values[i]; };
        std::vector<int64_t> sorted(n);
        std::iota(sorted.begin(), sorted.end(), 0);
        std::stable_sort(sorted.begin(), sorted.end(), [&](int64_t a, int64_t b) { return rank(a) > rank(b); });
        sorted.resize(std::min(n, wanted));
        check(largest(values.data(), n, wanted) == sorted, "not the %d largest of %d, kind %d", wanted, n, kind);
        Exact<float> floats(n);
        for (int i = 0; i < n; ++i) floats[i] = values[i] = static_cast<float>(values[i]);
        check(largest(floats.data(), n, wanted) == largest(values.data(), n, wanted), "floats and doubles differ");
    }
}

}  // namespace localllm
