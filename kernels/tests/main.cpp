// The kernels and the runtime without Python, for the sanitizer build. `kernel_tests NAME...` runs some of the parts.
#include <cstdio>
#include <string>
#include <utility>

#include "tests/testing.h"

int main(int count, char** names) {
    using namespace localllm;
    const std::pair<const char*, void (*)()> parts[] = {{"half", test_half},
                                                        {"quantise", test_quantise},
                                                        {"linear", test_linear},
                                                        {"elementwise", test_elementwise},
                                                        {"conversions", test_conversions},
                                                        {"not_finite", test_not_finite},
                                                        {"attention", test_attention},
                                                        {"attention_both_ways", test_attention_both_ways},
                                                        {"threads", test_threads},
                                                        {"packing", test_packing},
                                                        {"memory", test_memory},
                                                        {"measure", test_measure},
                                                        {"largest", test_largest},
                                                        {"encoder", test_encoder},
                                                        {"experts_room", test_experts_room},
                                                        {"programs", test_programs},
                                                        {"outputs", test_outputs},
                                                        {"squares", test_squares},
                                                        {"routed_squares", test_squares_of_routed_rows}};
    for (const auto& [name, run] : parts) {
        bool wanted = count == 1;
        for (int i = 1; i < count; ++i) wanted |= std::string(names[i]) == name;
        if (!wanted) continue;
        const int before = passed;
        run();
        std::printf("%s: %d passed\n", name, passed - before);
        std::fflush(stdout);
    }
    std::printf("%d passed\n", passed);
    return 0;
}
