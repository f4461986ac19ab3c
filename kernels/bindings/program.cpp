// The Program class of the module: it is built (bindings/builder.h), then runs steps. What its threads do, packing
// weights too, is done without holding the interpreter. Token ids and page numbers are checked here.
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
#include "bindings/builder.h"

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

class BoundProgram : public Builder {
  public:
    BoundProgram(int threads, const std::string& isa) : Builder(check_threads(threads), named_kernels(isa)) {}

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
    std::mutex running_;  // a second Python thread waits for the first

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
};

}  // namespace

void bind_program(nb::module_& m) {
    nb::class_<BoundProgram>(m, "Program")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("isa") = "")
        .def("weight", &BoundProgram::weight, nb::arg("type"), nb::arg("matrices"), nb::arg("rows"), nb::arg("cols"),
             nb::arg("data").noconvert())
        .def("pack_weights", &BoundProgram::pack_weights, nb::arg("shapes"), nb::arg("data"), nb::arg("offsets"),
             nb::arg("file"))
        .def("packed_weight", &BoundProgram::packed_weight, nb::arg("type"), nb::arg("matrices"), nb::arg("rows"),
             nb::arg("cols"), nb::arg("packed").noconvert())
        .def("checksum", &BoundProgram::checksum, nb::arg("data").noconvert())
        .def("table", &BoundProgram::table, nb::arg("type"), nb::arg("rows"), nb::arg("cols"),
             nb::arg("data").noconvert())
        .def("vector", &BoundProgram::vector, nb::arg("data").noconvert())
        .def("buffer", &BoundProgram::buffer, nb::arg("width"))
        .def("embed", &BoundProgram::embed, nb::arg("out"), nb::arg("table"), nb::arg("scale"),
             nb::arg("index") = "token")
        .def("norm", &BoundProgram::norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"),
             nb::arg("group"))
        .def("layer_norm", &BoundProgram::layer_norm, nb::arg("out"), nb::arg("x"), nb::arg("weight"), nb::arg("bias"),
             nb::arg("eps"))
        .def("linear", &BoundProgram::linear, nb::arg("x"), nb::arg("weights"), nb::arg("outs"), nb::arg("biases"),
             nb::arg("accumulate"), nb::arg("norm") = -1, nb::arg("eps") = 0.0, nb::arg("act") = "")
        .def("rope", &BoundProgram::rope, nb::arg("x"), nb::arg("inverse_frequencies"), nb::arg("heads"),
             nb::arg("head_dim"), nb::arg("interleaved"), nb::arg("scale"))
        .def("attention", &BoundProgram::attention, nb::arg("out"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
             nb::arg("layer"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"),
             nb::arg("window"), nb::arg("softcap"), nb::arg("q_norm") = -1, nb::arg("q_eps") = 0.0,
             nb::arg("k_norm") = -1, nb::arg("k_eps") = 0.0, nb::arg("inverse_frequencies") = -1,
             nb::arg("interleaved") = false, nb::arg("rope_scale") = 1.0)
        .def("attention_both_ways", &BoundProgram::attention_both_ways, nb::arg("out"), nb::arg("q"), nb::arg("k"),
             nb::arg("v"), nb::arg("heads"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("scale"))
        .def("act", &BoundProgram::act, nb::arg("out"), nb::arg("x"), nb::arg("kind"))
        .def("gated_act", &BoundProgram::gated_act, nb::arg("out"), nb::arg("gate"), nb::arg("up"), nb::arg("kind"))
        .def("add", &BoundProgram::add, nb::arg("out"), nb::arg("a"), nb::arg("b"))
        .def("softcap", &BoundProgram::softcap, nb::arg("x"), nb::arg("cap"))
        .def("select", &BoundProgram::select, nb::arg("out"), nb::arg("x"))
        .def("moe", &BoundProgram::moe, nb::arg("out"), nb::arg("x"), nb::arg("router"), nb::arg("gate"), nb::arg("up"),
             nb::arg("down"), nb::arg("used"), nb::arg("normalise"), nb::arg("scale"), nb::arg("kind"))
        .def("output", &BoundProgram::output, nb::arg("name"), nb::arg("buffer"))
        .def("step", &BoundProgram::step, nb::arg("cache"), nb::arg("tokens").noconvert(),
             nb::arg("lengths").noconvert(), nb::arg("past").noconvert(), nb::arg("tables").noconvert(),
             nb::arg("rows").noconvert(), nb::arg("only") = "", nb::arg("adapters").noconvert() = nb::none())
        .def("collect_squares", &BoundProgram::collect_squares)
        .def("squares", &BoundProgram::squares, nb::arg("weight"))
        .def("adapter", &BoundProgram::adapter, nb::arg("weights"), nb::arg("a").noconvert(), nb::arg("b").noconvert())
        .def("drop_adapter", &BoundProgram::drop_adapter, nb::arg("number"));
}

}  // namespace localllm
