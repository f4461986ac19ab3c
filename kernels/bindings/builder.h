// What a program is built of: buffers, vectors, tables and operations. Ids and shapes are checked here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "runtime/operations.h"
#include "runtime/program.h"

namespace localllm {

class Builder {
  public:
    Builder(int threads, const Kernels& kernels) : program(threads, kernels) {}

    Program program;
    std::vector<nb::object> kept;  // arrays whose memory the program reads in place

    int table(const std::string& type, int64_t rows, int64_t cols, Bytes data) {
        const PackedMatrix shape = checked_weight(type_named(type), 1, rows, cols, data.size());
        program.tables.push_back({shape.type, shape.rows, shape.cols, data.data()});
        kept.push_back(nb::cast(data));
        return static_cast<int>(program.tables.size()) - 1;
    }
    int vector(Floats data) {
        program.vectors.emplace_back(data.data(), data.data() + data.size());
        return static_cast<int>(program.vectors.size()) - 1;
    }
    int buffer(int width) {
        require(width > 0 && width < (1 << 24), "buffer: bad width");
        program.widths.push_back(width);
        return static_cast<int>(program.widths.size()) - 1;
    }

    void embed(int out, int table, double scale, const std::string& index) {
        auto op = std::make_unique<Embed>();
        require(table >= 0 && table < static_cast<int>(program.tables.size()), "embed: no such table");
        op->table = program.tables[table];
        op->out = width_is(out, op->table.cols, "embed");
        op->scale = static_cast<float>(scale);
        require(index == "token" || index == "position" || index == "segment", "embed: no such index");
        op->index = index == "token" ? Index::token : index == "position" ? Index::position : Index::segment;
        if (op->index == Index::token) vocabulary_ = std::min(vocabulary_, op->table.rows);
        if (op->index == Index::position) positions_ = std::min(positions_, op->table.rows);
        program.add(std::move(op));
    }
    void norm(int out, int x, int weight, double eps, int group) {
        auto op = std::make_unique<Norm>();
        op->x = buffer_id(x);
        op->width = program.widths[x];
        op->out = width_is(out, op->width, "norm");
        require(group > 0 && op->width % group == 0, "norm: the group does not divide the width");
        op->group = group;
        op->weight = vector_of(weight, group, "norm");
        op->eps = static_cast<float>(eps);
        program.add(std::move(op));
    }
    void layer_norm(int out, int x, int weight, int bias, double eps) {
        auto op = std::make_unique<LayerNorm>();
        op->x = buffer_id(x);
        op->width = program.widths[x];
        op->out = width_is(out, op->width, "layer_norm");
        op->weight = vector_of(weight, op->width, "layer_norm");
        op->bias = vector_of(bias, op->width, "layer_norm");
        op->eps = static_cast<float>(eps);
        program.add(std::move(op));
    }
    void linear(int x, const std::vector<int>& weights, const std::vector<int>& outs, const std::vector<int>& biases,
                bool accumulate, int norm, double eps, const std::string& act) {
        auto op = std::make_unique<Linear>();
        require(!weights.empty() && weights.size() == outs.size() && weights.size() == biases.size(),
                "linear: list lengths differ");
        op->x = buffer_id(x);
        op->accumulate = accumulate;
        for (size_t i = 0; i < weights.size(); ++i) {
            const PackedMatrix& w = matrix(weights[i], "linear");
            require(w.matrices == 1 && w.cols == program.widths[x], "linear: the weight does not fit its input");
            require(outs[i] != x, "linear: an output is the input");
            op->targets.push_back({&w, width_is(outs[i], w.rows, "linear"),
                                   biases[i] < 0 ? nullptr : vector_of(biases[i], w.rows, "linear")});
        }
        if (norm >= 0) {
            op->norm = vector_of(norm, program.widths[x], "linear");
            op->eps = static_cast<float>(eps);
        }
        if (!act.empty()) {
            op->kind = activation(act);
            op->gated = weights.size() == 2 && outs[0] == outs[1];
            op->activated = weights.size() == 1;
            require((op->gated || op->activated) && !accumulate,
                    "linear: an activation is that of one weight, or of a gate and what it lets through to one output");
        }
        program.add(std::move(op));
    }
    void rope(int x, int frequencies, int heads, int head_dim, bool interleaved, double scale) {
        auto op = std::make_unique<Rope>();
        require(heads > 0 && head_dim > 0, "rope: bad shape");
        op->rotation = rotation(frequencies, head_dim, interleaved, scale);
        op->x = width_is(x, int64_t{heads} * head_dim, "rope");
        op->heads = heads;
        op->head_dim = head_dim;
        program.add(std::move(op));
    }
    void attention(int out, int q, int k, int v, int layer, int heads, int kv_heads, int head_dim, double scale,
                   int window, double softcap, int q_norm, double q_eps, int k_norm, double k_eps, int frequencies,
                   bool interleaved, double rope_scale) {
        auto op = attention_over<Attention>(out, q, k, v, heads, kv_heads, head_dim, scale);
        require(layer >= 0 && layer < (1 << 20), "attention: bad layer");
        require(layers_ == 0 || (kv_heads == kv_heads_ && head_dim == head_dim_),
                "attention: the layers differ in their KV heads");
        auto head_norm = [&](int weight, double eps) -> Attention::HeadNorm {
            if (weight < 0) return {};
            return {vector_of(weight, head_dim, "attention"), static_cast<float>(eps)};
        };
        op->q_norm = head_norm(q_norm, q_eps);
        op->k_norm = head_norm(k_norm, k_eps);
        if (frequencies >= 0) op->rotation = rotation(frequencies, head_dim, interleaved, rope_scale);
        const bool in_place = frequencies >= 0 || q_norm >= 0 || k_norm >= 0;
        require(!in_place || (q != k && k != v && q != v), "attention: two inputs in one buffer, worked on in place");
        op->layer = layer;
        op->window = window;
        op->softcap = static_cast<float>(softcap);
        layers_ = std::max(layers_, layer + 1);
        kv_heads_ = kv_heads;
        head_dim_ = head_dim;
        program.add(std::move(op));
    }
    void attention_both_ways(int out, int q, int k, int v, int heads, int kv_heads, int head_dim, double scale) {
        program.add(attention_over<AttentionBothWays>(out, q, k, v, heads, kv_heads, head_dim, scale));
        texts_are_whole_ = true;
    }
    void act(int out, int x, const std::string& kind) {
        auto op = std::make_unique<Act>();
        op->x = buffer_id(x);
        op->width = program.widths[x];
        op->out = width_is(out, op->width, "act");
        op->kind = activation(kind);
        program.add(std::move(op));
    }
    void gated_act(int out, int gate, int up, const std::string& kind) {
        auto op = std::make_unique<GatedAct>();
        op->gate = buffer_id(gate);
        op->width = program.widths[gate];
        op->up = width_is(up, op->width, "gated_act");
        op->out = width_is(out, op->width, "gated_act");
        op->kind = activation(kind);
        program.add(std::move(op));
    }
    void add(int out, int a, int b) {
        auto op = std::make_unique<Add>();
        op->a = buffer_id(a);
        op->width = program.widths[a];
        op->b = width_is(b, op->width, "add");
        op->out = width_is(out, op->width, "add");
        program.add(std::move(op));
    }
    void softcap(int x, double cap) {
        auto op = std::make_unique<Softcap>();
        op->x = buffer_id(x);
        op->width = program.widths[x];
        require(cap > 0, "softcap: the cap must be positive");
        op->cap = static_cast<float>(cap);
        program.add(std::move(op));
    }
    void select(int out, int x) {
        auto op = std::make_unique<Select>();
        op->x = buffer_id(x);
        op->width = program.widths[x];
        op->out = width_is(out, op->width, "select");
        require(out != x, "select: the output is the input");
        program.add(std::move(op));
    }
    void moe(int out, int x, int router, int gate, int up, int down, int used, bool normalise, double scale,
             const std::string& kind) {
        auto op = std::make_unique<Experts>();
        const PackedMatrix &r = matrix(router, "moe"), &g = matrix(gate, "moe"), &u = matrix(up, "moe"),
                           &d = matrix(down, "moe");
        const int width = program.widths[buffer_id(x)];
        require(r.matrices == 1 && r.cols == width && g.cols == width && u.cols == width && d.rows == width,
                "moe: a weight does not fit the input");
        require(g.matrices == r.rows && u.matrices == r.rows && d.matrices == r.rows,
                "moe: the experts are not as many as the router says");
        require(g.rows == u.rows && d.cols == g.rows, "moe: gate, up and down do not fit together");
        require(used > 0 && used <= r.rows, "moe: more experts used than there are");
        op->x = x;
        op->out = width_is(out, width, "moe");
        require(out != x, "moe: the output is the input");
        op->used = used;
        op->normalise = normalise;
        op->scale = static_cast<float>(scale);
        op->kind = activation(kind);
        op->router = &r;
        op->gate = &g;
        op->up = &u;
        op->down = &d;
        program.add(std::move(op));
    }
    void output(const std::string& name, int buffer) {
        require(!program.operations.empty() && program.operations.back()->on_selected, "output: select the rows first");
        for (const Output& other : program.outputs) {
            require(other.buffer != buffer, "output: the buffer is one already");
            require(other.name != name, "output: there is one of that name");
        }
        program.add_output(name, buffer_id(buffer));
    }

  protected:
    int vocabulary_ = 1 << 30, positions_ = INT32_MAX, layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
    bool texts_are_whole_ = false;  // some operation reads a text's other rows of the same step

    const PackedMatrix& matrix(int id, const std::string& where) const {
        require(id >= 0 && id < static_cast<int>(program.weights.size()), where + ": no such weight");
        return program.weights[id];
    }

  private:
    // What turns heads of that size; steps share the angles of equal ones.
    Rotation rotation(int frequencies, int head_dim, bool interleaved, double scale) {
        require(frequencies >= 0 && frequencies < static_cast<int>(program.vectors.size()), "rope: no such vector");
        const int pairs = static_cast<int>(program.vectors[frequencies].size());
        require(pairs <= head_dim / 2, "rope: more frequencies than the head has pairs");
        auto& all = program.rotations;
        const auto same = std::find_if(all.begin(), all.end(), [&](const RotationSpec& r) {
            return r.frequencies == frequencies && r.scale == static_cast<float>(scale);
        });
        const int number = static_cast<int>(same - all.begin());
        if (same == all.end()) all.push_back({frequencies, static_cast<float>(scale)});
        return {number, pairs, interleaved};
    }
    // What both attentions have: heads that fit together, in buffers of their widths.
    template <class Op>
    std::unique_ptr<Op> attention_over(int out, int q, int k, int v, int heads, int kv_heads, int head_dim,
                                       double scale) const {
        require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "attention: heads is not a multiple of kv_heads");
        require(head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMaxHeadDim,
                "attention: head_dim must be a multiple of 16, at most 512");
        const int64_t q_width = int64_t{heads} * head_dim, kv_width = int64_t{kv_heads} * head_dim;
        auto op = std::make_unique<Op>();
        op->q = width_is(q, q_width, "attention");
        op->k = width_is(k, kv_width, "attention");
        op->v = width_is(v, kv_width, "attention");
        op->out = width_is(out, q_width, "attention");
        require(out != q && out != k && out != v, "attention: the output is an input");
        op->heads = heads;
        op->kv_heads = kv_heads;
        op->head_dim = head_dim;
        op->scale = static_cast<float>(scale);
        return op;
    }
    int buffer_id(int id) const {
        require(id >= 0 && id < static_cast<int>(program.widths.size()), "no such buffer");
        return id;
    }
    int width_is(int id, int64_t width, const std::string& where) const {
        require(program.widths[buffer_id(id)] == width, where + ": the buffer has another width");
        return id;
    }
    const float* vector_of(int id, int length, const std::string& where) const {
        require(id >= 0 && id < static_cast<int>(program.vectors.size()), where + ": no such vector");
        require(static_cast<int>(program.vectors[id].size()) == length, where + ": the vector has another length");
        return program.vectors[id].data();
    }
    static Activation activation(const std::string& kind) {
        require(kind == "silu" || kind == "gelu" || kind == "gelu_erf", "activation must be silu, gelu or gelu_erf");
        return kind == "silu" ? Activation::silu : kind == "gelu" ? Activation::gelu : Activation::gelu_erf;
    }
};

}  // namespace localllm
