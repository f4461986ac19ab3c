// Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685): matrices A and B for some weights, so that W x becomes
// W x + B (A x) for the rows of the sequences that use them.
#pragma once

#include <unordered_map>

#include "quant/format.h"
#include "runtime/memory.h"

namespace localllm {

struct LowRank {
    PackedMatrix a, b;  // float32: [rank][columns of the weight] and [rows of the weight][rank]
};

struct Adapter {
    std::unordered_map<const PackedMatrix*, LowRank> terms;  // by weight
    Memory memory;                                           // of all A and B

    // Null: nothing is added to the weight.
    const LowRank* of(const PackedMatrix* weight) const {
        const auto found = terms.find(weight);
        return found == terms.end() ? nullptr : &found->second;
    }
};

// Rows of a step that stand together and use one adapter.
struct AdaptedRows {
    const Adapter* adapter;
    int start, count;
};

}  // namespace localllm
