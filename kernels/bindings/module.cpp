// The module: instruction sets, what reads a GGUF file fast, what finds the likeliest tokens, and the key/value cache.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "attention/cache.h"
#include "bindings/arguments.h"
#include "isa/kernels.h"
#include "measure/measure.h"
#include "quant/quantisers.h"
#include "runtime/largest.h"
#include "runtime/memory.h"

namespace localllm {

namespace {

// Walks `count` GGUF strings (uint64 length, bytes) from `offset`.
nb::tuple scan_strings(Bytes buffer, uint64_t offset, uint64_t count) {
    const uint64_t size = buffer.size();
    auto check = [](bool inside) {
        if (!inside) throw nb::value_error("string array leaves the buffer");
    };
    check(offset <= size && count <= (size - offset) / 8);
    const size_t n = static_cast<size_t>(count);
    auto starts = own(new int64_t[n ? n : 1], {n});
    auto lengths = own(new int64_t[n ? n : 1], {n});
    for (size_t i = 0; i < n; ++i) {
        check(size - offset >= 8);
        uint64_t length;
        std::memcpy(&length, buffer.data() + offset, 8);
        offset += 8;
        check(length <= size - offset);
        starts.data()[i] = static_cast<int64_t>(offset);
        lengths.data()[i] = static_cast<int64_t>(length);
        offset += length;
    }
    return nb::make_tuple(starts, lengths, offset);
}

// What runs for long, without holding the interpreter.
template <class Work>
auto unlocked(Work work) {
    nb::gil_scoped_release release;
    return work();
}

template <class T>
auto largest_of(nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu> values, int64_t count) {
    require(count > 0, "largest: count must be positive");
    const auto n = static_cast<int64_t>(values.size());
    const std::vector<int64_t> places = unlocked([&] { return largest(values.data(), n, count); });
    auto copy = own(new int64_t[places.size()], {places.size()});
    std::copy(places.begin(), places.end(), copy.data());
    return copy;
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // objects alive when the interpreter ends are no user's concern
    m.def("isa", [] { return std::string(kernels().name); });
    m.def("measured_rates", [] {
        nb::dict rates;
        for (const Kernels* k : available_kernels()) rates[k->name] = measured_rate(*k);
        return rates;
    });
    m.def("available_isas", [] {
        std::vector<std::string> names;
        for (const Kernels* k : available_kernels()) names.emplace_back(k->name);
        return names;
    });
    m.def(
        "measure_memory",
        [](const std::vector<int>& threads, size_t bytes) {
            require(!threads.empty(), "threads must not be empty");
            for (int n : threads) check_threads(n);
            require(bytes >= kLeastMeasured && bytes < size_t{1} << 40, "bytes must be between 1 MiB and 1 TiB");
            const MemoryRates found = unlocked([&] { return measure_memory(threads, bytes); });
            nb::list rates;
            for (const MemoryRate& r : found.rates) {
                nb::dict row;
                row["threads"] = r.threads;
                row["streams"] = r.streams;
                row["prefetch"] = r.prefetch;
                row["huge_pages"] = r.huge_pages;
                row["median"] = r.median;
                row["best"] = r.best;
                rates.append(row);
            }
            return nb::make_tuple(found.bytes, found.huge_bytes, rates);
        },
        nb::arg("threads"), nb::arg("bytes"));
    m.def(
        "measure_dots",
        [](int threads) {
            check_threads(threads);
            nb::list rates;
            for (const DotRate& r : unlocked([&] { return measure_dots(threads); })) {
                nb::dict row;
                row["isa"] = r.isa;
                row["type"] = r.type;
                row["bits"] = r.bits;
                row["rate"] = r.rate;
                rates.append(row);
            }
            return rates;
        },
        nb::arg("threads"));
    m.def(
        "measure_barrier",
        [](int threads) {
            check_threads(threads);
            return unlocked([&] { return measure_barrier(threads); });
        },
        nb::arg("threads"));
    m.attr("packed_layout") = kPackedLayout;
    m.def(
        "packed_size",
        [](const std::string& type, int64_t matrices, int64_t rows, int64_t cols) {
            return checked_shape(type_named(type), matrices, rows, cols).bytes();
        },
        nb::arg("type"), nb::arg("matrices"), nb::arg("rows"), nb::arg("cols"));
    m.def(
        "map_file",
        [](int file, size_t bytes) {
            require(bytes > 0, "map_file: nothing to map");
            uint8_t* data = map_file(file, bytes);
            if (!data) {
                PyErr_SetFromErrno(PyExc_OSError);
                throw nb::python_error();
            }
            struct Mapping {
                uint8_t* data;
                size_t bytes;
            };
            nb::capsule owner(new Mapping{data, bytes}, [](void* p) noexcept {
                auto* mapping = static_cast<Mapping*>(p);
                unmap_file(mapping->data, mapping->bytes);
                delete mapping;
            });
            return nb::ndarray<nb::numpy, const uint8_t>(data, {bytes}, owner);
        },
        nb::arg("file"), nb::arg("bytes"));
    m.def("scan_strings", &scan_strings, nb::arg("buffer").noconvert(), nb::arg("offset"), nb::arg("count"));
    m.def("largest", &largest_of<float>, nb::arg("values").noconvert(), nb::arg("count"));
    m.def("largest", &largest_of<double>, nb::arg("values").noconvert(), nb::arg("count"));
    m.def(
        "dequantize",
        [](const std::string& type, Bytes data, nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
            const Type t = type_named(type);
            checked_weight(t, 1, 1, static_cast<int64_t>(out.size()), data.size());
            dequantize(t, data.data(), out.size(), out.data());
        },
        nb::arg("type"), nb::arg("data").noconvert(), nb::arg("out").noconvert());
    m.def(
        "quantize",
        [](const std::string& type, const std::string& source, int64_t cols, Bytes data,
           std::optional<Floats> importance, int threads,
           nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
            const Type to = type_named(type), from = type_named(source);
            check_threads(threads);
            const PackedMatrix one = checked_shape(from, 1, 1, cols);
            const size_t row_bytes = static_cast<size_t>(cols / format(from).block) * format(from).bytes;
            const auto rows = static_cast<int64_t>(data.size() / row_bytes);
            checked_weight(from, 1, rows, cols, data.size());
            checked_weight(to, 1, rows, cols, out.size());
            require(!importance || importance->size() == static_cast<size_t>(cols), "importance: one for each column");
            const Quantised made = unlocked([&] {
                return quantise(quantisers_of(kernels().name), to, from, data.data(), rows, one.cols,
                                importance ? importance->data() : nullptr, threads, out.data());
            });
            return nb::make_tuple(made.squares, made.errors, made.bad_row);
        },
        nb::arg("type"), nb::arg("source"), nb::arg("cols"), nb::arg("data").noconvert(),
        nb::arg("importance").noconvert().none(), nb::arg("threads"), nb::arg("out").noconvert());

    nb::class_<Cache>(m, "Cache")
        .def(
            "__init__",
            [](Cache* self, int layers, int kv_heads, int head_dim, int pages, int page_size, const std::string& type) {
                require(layers > 0 && kv_heads > 0 && pages > 0 && head_dim > 0 && head_dim % 16 == 0 &&
                            head_dim <= kMaxHeadDim,
                        "cache: bad shape (head_dim must be a multiple of 16, at most 512)");
                require(static_cast<double>(layers) * kv_heads * pages * (8.0 * head_dim * kPageTokens) < 1e15,
                        "cache: too large");
                require(page_size == kPageTokens, "cache: the page size is 32");
                const auto known = std::find(std::begin(kCacheTypeNames), std::end(kCacheTypeNames), type);
                require(known != std::end(kCacheTypeNames), "cache: the type must be f32, f16 or int8");
                new (self) Cache(layers, kv_heads, head_dim, pages,
                                 static_cast<CacheType>(known - std::begin(kCacheTypeNames)));
            },
            nb::arg("layers"), nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("pages"), nb::arg("page_size"),
            nb::arg("type"))
        .def(
            "copy_page",
            [](Cache& cache, int source, int target) {
                require(source >= 0 && source < cache.pages && target >= 0 && target < cache.pages,
                        "copy_page: no such page");
                cache.copy_page(source, target);
            },
            nb::arg("source"), nb::arg("target"))
        .def_prop_ro("nbytes", &Cache::bytes);

    bind_program(m);
}

}  // namespace localllm
