// The native operations: localllm/ops/spec.py gives their meaning. Ids are validated by whoever builds them.
#pragma once

#include <vector>

#include "runtime/program.h"

namespace localllm {

// What chooses a row's row of a table. Every text is one segment, number 0.
enum class Index : uint8_t { token, position, segment };

struct Embed final : Operation {
    int out;
    float scale;
    Index index = Index::token;
    Table table;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct Norm final : Operation {
    int out, x, width, group;
    float eps;
    const float* weight;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct LayerNorm final : Operation {
    int out, x, width;
    float eps;
    const float *weight, *bias;
    void run(const Kernels&, const Step&, Team&) const override;
};

// Several weights on one input; with `accumulate` the outputs are added to. With a norm, the input is normalised first
// (see Norm; over the whole row); gated, the two weights' results are combined (see GatedAct) into one output;
// activated, the results are (see Act).
struct Linear final : Operation {
    struct Target {
        const PackedMatrix* weight;
        int out;
        const float* bias;  // null: none
    };
    int x;
    bool accumulate;
    std::vector<Target> targets;
    const float* norm = nullptr;  // null: none
    float eps = 0;
    bool gated = false, activated = false;
    Activation kind = Activation::silu;
    size_t scratch(const Kernels&, const Step&) const override;
    void run(const Kernels&, const Step&, Team&) const override;
};

// Turns the first 2 * pairs dimensions of a head by the position of its row.
struct Rotation {
    int number = -1;  // of the step's rotations; -1: none
    int pairs = 0;
    bool interleaved = false;
    void turn(const Step& step, int64_t row, float* head) const;
};

// In place.
struct Rope final : Operation {
    int x, heads, head_dim;
    Rotation rotation;
    void run(const Kernels&, const Step&, Team&) const override;
};

// The heads of q and k may be normalised first, then turned, both in place.
struct Attention final : Operation {
    int out, q, k, v, layer, heads, kv_heads, head_dim, window;
    float scale, softcap;
    struct HeadNorm {
        const float* weight = nullptr;  // null: none
        float eps = 0;
    };
    HeadNorm q_norm, k_norm;
    Rotation rotation;
    size_t scratch(const Kernels&, const Step&) const override;
    void run(const Kernels&, const Step&, Team&) const override;
};

// Of every text's tokens among themselves (attention/attend_both_ways.h).
struct AttentionBothWays final : Operation {
    int out, q, k, v, heads, kv_heads, head_dim;
    float scale;
    size_t scratch(const Kernels&, const Step&) const override;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct Act final : Operation {
    int out, x, width;
    Activation kind;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct GatedAct final : Operation {
    int out, gate, up, width;
    Activation kind;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct Add final : Operation {
    int out, a, b, width;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct Softcap final : Operation {
    int x, width;
    float cap;
    void run(const Kernels&, const Step&, Team&) const override;
};

struct Select final : Operation {
    int out, x, width;
    void run(const Kernels&, const Step&, Team&) const override;
};

// Mixture of experts: softmax over the router's logits, the `used` best experts of each row, their outputs weighted.
struct Experts final : Operation {
    int out, x, used;
    bool normalise;
    float scale;
    Activation kind;
    const PackedMatrix *router, *gate, *up, *down;
    size_t scratch(const Kernels&, const Step&) const override;
    void run(const Kernels&, const Step&, Team&) const override;
};

}  // namespace localllm
