// What comes from Python: the arrays, and the checks that both files of the bindings make.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "quant/format.h"

namespace nb = nanobind;

namespace localllm {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatTable = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw nb::value_error(message.c_str());
}

inline int check_threads(int threads) {
    require(threads >= 1 && threads <= 1024, "threads must be between 1 and 1024");
    return threads;
}

template <class T>
nb::ndarray<nb::numpy, T> own(T* data, std::initializer_list<size_t> shape) {
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

inline Type type_named(const std::string& name) {
    for (int i = 0; i < static_cast<int>(Type::count); ++i)
        if (name == kFormats[i].name) return static_cast<Type>(i);
    throw nb::value_error(("unknown weight type: " + name).c_str());
}

// A weight that is not packed yet. Throws when its size is impossible or its columns do not fill whole blocks.
inline PackedMatrix checked_shape(Type type, int64_t matrices, int64_t rows, int64_t cols) {
    constexpr int64_t most = (int64_t{1} << 31) - kSuper;  // rounded up to panels and units it is an int still
    require(matrices > 0 && rows > 0 && cols > 0 && matrices < most && rows < most && cols < most,
            "weight: empty or too large");
    require(static_cast<double>(matrices) * static_cast<double>(rows) * static_cast<double>(cols) < 1e15,
            "weight: empty or too large");
    require(cols % format(type).block == 0,
            std::string(format(type).name) + " weight: columns are not a multiple of the block size");
    return {type, static_cast<int>(matrices), static_cast<int>(rows), static_cast<int>(cols)};
}

// The same for row-major GGUF blocks; throws when the data has another size, too.
inline PackedMatrix checked_weight(Type type, int64_t matrices, int64_t rows, int64_t cols, size_t bytes) {
    const Format& f = format(type);
    const PackedMatrix shape = checked_shape(type, matrices, rows, cols);
    require(bytes / rows / matrices == static_cast<size_t>(cols / f.block * f.bytes) && bytes % (rows * matrices) == 0,
            std::string(f.name) + " weight: the data does not have the size of its shape");
    return shape;
}

// Adds the Program class to the module.
void bind_program(nb::module_& m);

}  // namespace localllm
