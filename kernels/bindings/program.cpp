// The Program class of the module: builds operations and runs steps. Ids, shapes and page numbers are checked here.
#include "runtime/program.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <optional>
#include <set>

#ifndef _WIN32
#include <unistd.h>
#endif

#include "bindings/arguments.h"
#include "runtime/operations.h"

namespace localllm {

namespace {

// Writes all of a part at a place in an open file; 0, or what errno says went wrong.
int write_at(int file, const uint8_t* part, size_t bytes, int64_t offset) {
#ifdef _WIN32
    return ENOSYS;
#else
    while (bytes > 0) {
        const auto written = pwrite(file, part, bytes, offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return written < 0 ? errno : ENOSPC;
        part += written;
        bytes -= static_cast<size_t>(written);
        offset += written;
    }
    return 0;
#endif
}

class Builder {
  public:
    Builder(int threads, const std::string& isa) : program(check_threads(threads), named_kernels(isa)) {}

    Program program;
    std::vector<nb::object> kept;  // arrays whose memory the program reads in place

    int weight(const std::string& type, int64_t matrices, int64_t rows, int64_t cols, Bytes data) {
        const PackedMatrix shape = checked_weight(type_named(type), matrices, rows, cols, data.size());
        nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(running_);
        return program.add_weight(shape, data.data());
    }
    // `shapes` holds type, matrices, rows and cols of each weight. Returns their checksums.
    std::vector<uint64_t> pack_weights(const std::vector<std::tuple<std::string, int64_t, int64_t, int64_t>>& shapes,
                                       const std::vector<Bytes>& data, const std::vector<int64_t>& offsets, int file) {
        require(shapes.size() == data.size() && shapes.size() == offsets.size(), "weights: list lengths differ");
        std::vector<Program::Source> sources;
        int64_t end = 0;
        for (size_t i = 0; i < shapes.size(); ++i) {
            const auto& [type, matrices, rows, cols] = shapes[i];
            const PackedMatrix shape = checked_weight(type_named(type), matrices, rows, cols, data[i].size());
            require(offsets[i] >= end && offsets[i] % 64 == 0, "weights: they overlap, or are not aligned");
            end = offsets[i] + static_cast<int64_t>(shape.bytes());
            sources.push_back({shape, data[i].data(), offsets[i]});
        }
        int error;
        std::vector<uint64_t> checksums;
        {
            nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(running_);
            const auto write = [file](const uint8_t* part, size_t bytes, int64_t at) {
                return write_at(file, part, bytes, at);
            };
            error = program.pack_weights(sources, write, checksums);
        }
        if (error) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            throw nb::python_error();
        }
        return checksums;
    }
    int packed_weight(const std::string& type, int64_t matrices, int64_t rows, int64_t cols, Bytes packed) {
        const PackedMatrix shape = checked_shape(type_named(type), matrices, rows, cols);
        require(packed.size() == shape.bytes(), "weight: another size than packed");
        require(reinterpret_cast<uintptr_t>(packed.data()) % 64 == 0, "weight: not aligned to 64 bytes");
        kept.push_back(nb::cast(packed));
        return program.add_packed(shape, packed.data());
    }
    uint64_t checksum(Bytes data) {
        nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(running_);
        return program.checksum(data.data(), data.size());
    }
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
        auto op = std::make_unique<Attention>();
        check_heads(heads, kv_heads, head_dim);
        require(layer >= 0 && layer < (1 << 20), "attention: bad layer");
        require(layers_ == 0 || (kv_heads == kv_heads_ && head_dim == head_dim_),
                "attention: the layers differ in their KV heads");
        const int64_t q_width = int64_t{heads} * head_dim, kv_width = int64_t{kv_heads} * head_dim;
        op->q = width_is(q, q_width, "attention");
        op->k = width_is(k, kv_width, "attention");
        op->v = width_is(v, kv_width, "attention");
        op->out = width_is(out, q_width, "attention");
        require(out != q && out != k && out != v, "attention: the output is an input");
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
        op->heads = heads;
        op->kv_heads = kv_heads;
        op->head_dim = head_dim;
        op->scale = static_cast<float>(scale);
        op->window = window;
        op->softcap = static_cast<float>(softcap);
        layers_ = std::max(layers_, layer + 1);
        kv_heads_ = kv_heads;
        head_dim_ = head_dim;
        program.add(std::move(op));
    }
    void attention_both_ways(int out, int q, int k, int v, int heads, int kv_heads, int head_dim, double scale) {
        auto op = std::make_unique<AttentionBothWays>();
        check_heads(heads, kv_heads, head_dim);
        const int64_t q_width = int64_t{heads} * head_dim, kv_width = int64_t{kv_heads} * head_dim;
        op->q = width_is(q, q_width, "attention");
        op->k = width_is(k, kv_width, "attention");
        op->v = width_is(v, kv_width, "attention");
        op->out = width_is(out, q_width, "attention");
        require(out != q && out != k && out != v, "attention: the output is an input");
        op->heads = heads;
        op->kv_heads = kv_heads;
        op->head_dim = head_dim;
        op->scale = static_cast<float>(scale);
        texts_are_whole_ = true;
        program.add(std::move(op));
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

    // An adapter of some weights that linears read: A [rank][cols] and B [rows][rank] of each.
    int adapter(const std::vector<int>& weights, const std::vector<FloatTable>& a, const std::vector<FloatTable>& b) {
        require(!weights.empty() && weights.size() == a.size() && weights.size() == b.size(),
                "adapter: list lengths differ");
        std::set<const PackedMatrix*> adaptable;
        for (const auto& operation : program.operations)
            if (const auto* linear = dynamic_cast<const Linear*>(operation.get()))
                for (const auto& target : linear->targets) adaptable.insert(target.weight);
        std::vector<Program::AdapterSource> sources;
        for (size_t i = 0; i < weights.size(); ++i) {
            const PackedMatrix& weight = matrix(weights[i], "adapter");
            require(adaptable.erase(&weight) == 1, "adapter: no linear reads the weight, or it comes twice");
            const auto rank = static_cast<int64_t>(a[i].shape(0));
            require(static_cast<int64_t>(a[i].shape(1)) == weight.cols &&
                        static_cast<int64_t>(b[i].shape(0)) == weight.rows &&
                        static_cast<int64_t>(b[i].shape(1)) == rank,
                    "adapter: the matrices do not fit the weight");
            checked_shape(Type::F32, 1, rank, weight.cols);
            checked_shape(Type::F32, 1, weight.rows, rank);
            sources.push_back({weights[i], static_cast<int>(rank), a[i].data(), b[i].data()});
        }
        nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(running_);
        return program.add_adapter(sources);
    }
    void drop_adapter(int number) {
        nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(running_);
        require(program.adapters.erase(number) == 1, "drop_adapter: no such adapter");
    }

    void collect_squares() {
        nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(running_);
        program.collect_squares();
    }
    // The sums float64 [matrices, cols] of a weight, and of how many rows int64 [matrices].
    nb::tuple squares(int weight) {
        const PackedMatrix& w = matrix(weight, "squares");
        InputSquares found;
        {
            nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(running_);
            require(program.squares && program.squares->count(&w), "squares: not collected of this weight");
            found = program.squares->at(&w);
        }
        const size_t matrices = found.rows.size(), cols = static_cast<size_t>(w.cols);
        auto sums = std::make_unique<double[]>(matrices * cols);
        auto rows = std::make_unique<int64_t[]>(matrices);
        std::copy(found.sums.begin(), found.sums.end(), sums.get());
        std::copy(found.rows.begin(), found.rows.end(), rows.get());
        return nb::make_tuple(own(sums.release(), {matrices, cols}), own(rows.release(), {matrices}));
    }

    // With `only`, that output alone, and nothing is computed that comes after it.
    nb::dict step(const Cache& cache, Ints tokens, Ints lengths, Ints past, IntTable tables, Ints selected,
                  const std::string& only, std::optional<Ints> adapters) {
        Step s;
        s.cache = &cache;
        s.rows = static_cast<int>(tokens.size());
        s.tokens = tokens.data();
        require(tokens.size() > 0 && tokens.size() < (1u << 24), "step: no rows, or too many");
        require(lengths.size() == past.size() && lengths.size() == tables.shape(0),
                "step: lengths, past and tables differ in number");
        require(layers_ == 0 || (cache.layers >= layers_ && cache.kv_heads == kv_heads_ && cache.head_dim == head_dim_),
                "step: the cache has another shape than the program");
        for (size_t i = 0; i < tokens.size(); ++i)
            require(tokens.data()[i] >= 0 && tokens.data()[i] < vocabulary_, "step: token id outside the vocabulary");
        int64_t row = 0;
        for (size_t i = 0; i < lengths.size(); ++i) {
            const int64_t length = lengths.data()[i], before = past.data()[i];
            require(length > 0 && before >= 0 && before + length <= INT32_MAX && row + length <= s.rows,
                    "step: bad sequence length");
            require(before + length <= positions_, "step: a sequence is longer than there are positions");
            require(!texts_are_whole_ || before == 0, "step: tokens that see all of their text come without it");
            // Without layers in the cache, no pages are read or written.
            const int64_t needed = layers_ > 0 ? (before + length + kPageTokens - 1) / kPageTokens : 0;
            require(needed <= static_cast<int64_t>(tables.shape(1)), "step: the block table is too short");
            const int32_t* table = tables.data() + i * tables.shape(1);
            for (int64_t p = 0; p < needed; ++p)
                require(table[p] >= 0 && table[p] < cache.pages, "step: page number outside the cache");
            s.spans.push_back({static_cast<int>(row), static_cast<int>(length), static_cast<int>(before), table});
            for (int64_t j = 0; j < length; ++j) s.positions.push_back(static_cast<int32_t>(before + j));
            row += length;
        }
        require(row == s.rows, "step: the lengths do not add up to the tokens");
        s.selected = selected.data();
        s.selected_rows = static_cast<int>(selected.size());
        require(s.selected_rows <= s.rows, "step: more rows selected than there are");
        for (size_t i = 0; i < selected.size(); ++i)
            require(selected.data()[i] >= 0 && selected.data()[i] < s.rows, "step: selected row outside the batch");
        const auto& outputs = program.outputs;
        const auto wanted =
            std::find_if(outputs.begin(), outputs.end(), [&](const Output& output) { return output.name == only; });
        require(only.empty() || wanted != outputs.end(), "step: no such output");
        require(!adapters || adapters->size() == lengths.size(), "step: lengths and adapters differ in number");
        {
            nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(running_);
            for (size_t i = 0; adapters && i < s.spans.size(); ++i)
                s.spans[i].adapter = adapter_of(adapters->data()[i]);
            program.run(s, only.empty() ? nullptr : &*wanted);
        }
        nb::dict results;
        for (size_t i = 0; i < outputs.size(); ++i) {
            if (!only.empty() && outputs[i].name != only) continue;
            const size_t width = program.widths[outputs[i].buffer];
            results[outputs[i].name.c_str()] =
                own(s.outputs[i].release(), {static_cast<size_t>(s.selected_rows), width});
        }
        return results;
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

    std::mutex running_;  // a second Python thread waits for the first
    int vocabulary_ = 1 << 30, positions_ = INT32_MAX, layers_ = 0, kv_heads_ = 0, head_dim_ = 0;
    bool texts_are_whole_ = false;  // some operation reads a text's other rows of the same step

    // The kernels of an instruction set; those chosen for this processor for "".
    static const Kernels& named_kernels(const std::string& isa) {
        if (isa.empty()) return kernels();
        for (const Kernels* k : available_kernels())
            if (isa == k->name) return *k;
        throw nb::value_error(("the instruction set is not available here: " + isa).c_str());
    }
    // Null for the number -1.
    const Adapter* adapter_of(int number) const {
        if (number == -1) return nullptr;
        const auto found = program.adapters.find(number);
        require(found != program.adapters.end(), "step: no such adapter");
        return found->second.get();
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
    const PackedMatrix& matrix(int id, const std::string& where) const {
        require(id >= 0 && id < static_cast<int>(program.weights.size()), where + ": no such weight");
        return program.weights[id];
    }
    static void check_heads(int heads, int kv_heads, int head_dim) {
        require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0, "attention: heads is not a multiple of kv_heads");
        require(head_dim > 0 && head_dim % 16 == 0 && head_dim <= kMaxHeadDim,
                "attention: head_dim must be a multiple of 16, at most 512");
    }
    static Activation activation(const std::string& kind) {
        require(kind == "silu" || kind == "gelu" || kind == "gelu_erf", "activation must be silu, gelu or gelu_erf");
        return kind == "silu" ? Activation::silu : kind == "gelu" ? Activation::gelu : Activation::gelu_erf;
    }
};

}  // namespace

void bind_program(nb::module_& m) {
    nb::class_<Builder>(m, "Program")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("isa") = "")
        .def("weight", &Builder::weight, nb::arg("type"), nb::arg("matrices"), nb::arg("rows"), nb::arg("cols"),
             nb::arg("data").noconvert())
        .def("pack_weights", &Builder::pack_weights, nb::arg("shapes"), nb::arg("data"), nb::arg("offsets"),
             nb::arg("file"))
        .def("packed_weight", &Builder::packed_weight, nb::arg("type"), nb::arg("matrices"), nb::arg("rows"),
             nb::arg("cols"), nb::arg("packed").noconvert())
        .def("checksum", &Builder::checksum, nb::arg("data").noconvert())
        .def("table", &Builder::table, nb::arg("type"), nb::arg("rows"), nb::arg("cols"), nb::arg("data").noconvert())
        .def("vector", &Builder::vector, nb::arg("data").noconvert())
        .def("buffer", &Builder::buffer, nb::arg("width"))
        .def("embed", &Builder::embed, nb::arg("out"), nb::arg("table"), nb::arg("scale"), nb::arg("index") = "token")
        .def("norm", &Builder::norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("group"))
        .def("layer_norm", &Builder::layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"),
             nb::arg("eps"))
        .def("linear", &Builder::linear, nb::arg("x"), nb::arg("weights"), nb::arg("outs"), nb::arg("biases"),
             nb::arg("accumulate"), nb::arg("norm") = -1, nb::arg("eps") = 0.0, nb::arg("act") = "")
        .def("rope", &Builder::rope, nb::arg("x"), nb::arg("inverse_frequencies"), nb::arg("heads"),
             nb::arg("head_dim"), nb::arg("interleaved"), nb::arg("scale"))
        .def("attention", &Builder::attention, nb::arg("out"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
             nb::arg("layer"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"),
             nb::arg("window"), nb::arg("softcap"), nb::arg("q_norm") = -1, nb::arg("q_eps") = 0.0,
             nb::arg("k_norm") = -1, nb::arg("k_eps") = 0.0, nb::arg("inverse_frequencies") = -1,
             nb::arg("interleaved") = false, nb::arg("rope_scale") = 1.0)
        .def("attention_both_ways", &Builder::attention_both_ways, nb::arg("out"), nb::arg("q"), nb::arg("k"),
             nb::arg("v"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"))
        .def("act", &Builder::act, nb::arg("out"), nb::arg("x"), nb::arg("kind"))
        .def("gated_act", &Builder::gated_act, nb::arg("out"), nb::arg("gate"), nb::arg("up"), nb::arg("kind"))
        .def("add", &Builder::add, nb::arg("out"), nb::arg("a"), nb::arg("b"))
        .def("softcap", &Builder::softcap, nb::arg("x"), nb::arg("cap"))
        .def("select", &Builder::select, nb::arg("out"), nb::arg("x"))
        .def("moe", &Builder::moe, nb::arg("out"), nb::arg("x"), nb::arg("router"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"), nb::arg("used"), nb::arg("normalise"), nb::arg("scale"), nb::arg("kind"))
        .def("output", &Builder::output, nb::arg("name"), nb::arg("buffer"))
        .def("step", &Builder::step, nb::arg("cache"), nb::arg("tokens").noconvert(), nb::arg("lengths").noconvert(),
             nb::arg("past").noconvert(), nb::arg("tables").noconvert(), nb::arg("rows").noconvert(),
             nb::arg("only") = "", nb::arg("adapters").noconvert() = nb::none())
        .def("collect_squares", &Builder::collect_squares)
        .def("squares", &Builder::squares, nb::arg("weight"))
        .def("adapter", &Builder::adapter, nb::arg("weights"), nb::arg("a").noconvert(), nb::arg("b").noconvert())
        .def("drop_adapter", &Builder::drop_adapter, nb::arg("number"));
}

}  // namespace localllm
