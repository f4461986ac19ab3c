#include <cmath>

#include "tests/testing.h"

namespace localllm {

void test_half() {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const float x = half_to_float(static_cast<uint16_t>(bits));
        if (x != x)
            check((float_to_half(x) & 0x7fff) > 0x7c00, "half %04x is not a number and must stay so", bits);
        else
            check(float_to_half(x) == bits, "half %04x does not survive", bits);
    }
    Random random(1);
    for (int i = 0; i < 200000; ++i) {
        const float x = std::ldexp(random.uniform(1, 2), random.between(-27, 15)) * (random.below(2) ? 1.0f : -1.0f);
        const uint16_t bits = float_to_half(x);
        const float error = std::fabs(half_to_float(bits) - x);
        for (int step : {-1, 1}) {
            const uint16_t other = static_cast<uint16_t>(bits + step);
            if ((bits & 0x7fff) == 0 || (bits & 0x7c00) == 0x7c00 || (other & 0x7c00) == 0x7c00) continue;
            const float distance = std::fabs(half_to_float(other) - x);
            check(error < distance || (error == distance && !(bits & 1)), "half of %g is not the nearest",
                  static_cast<double>(x));
        }
    }
    check(float_to_half(65519.0f) == 0x7bff && float_to_half(65520.0f) == 0x7c00, "half overflows at the wrong place");
}

}  // namespace localllm
