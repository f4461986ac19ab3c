// Builds the table of quantisers of one vector vocabulary. Included once by each instruction set's translation unit.
#pragma once

#include "quant/quantisers.h"
#include "quant/small_blocks.h"
#include "quant/super_blocks.h"
#include "quant/table_blocks.h"

namespace localllm {

// The mean square of each row.
template <class V>
void square_rows(const StripRows& rows, Strip<V>& s) {
    for (int r = 0; r < V::lanes; ++r) {
        const float* row = rows.values + static_cast<size_t>(r) * rows.cols;
        float sum = 0;
        for (int c = 0; c < rows.cols; ++c) sum += row[c] * row[c];
        s.row_mean_square[r] = sum / static_cast<float>(rows.cols);
    }
}

template <class V, Type type, void (*block)(Strip<V>&)>
void quantise_strip(StripRows& rows) {
    constexpr Format f = format(type);
    constexpr bool by_row = type == Type::Q4_0 || type == Type::Q4_1 || type == Type::Q5_0 || type == Type::Q5_1;
    Strip<V> s;
    if (by_row && rows.importance) square_rows(rows, s);
    for (int r = 0; r < V::lanes; ++r) rows.squares[r] = rows.errors[r] = 0;
    for (int b = 0; b < rows.cols / f.block; ++b) {
        for (int r = 0; r < V::lanes; ++r) {
            const float* from = rows.values + static_cast<size_t>(r) * rows.cols + b * f.block;
            for (int i = 0; i < f.block; ++i) s.x[i][r] = from[i];
        }
        s.importance = rows.importance ? rows.importance + b * f.block : nullptr;
        s.squares = s.errors = V::zero();
        std::memset(s.byte, 0, static_cast<size_t>(f.bytes) * V::lanes);
        block(s);
        alignas(64) float squares[V::lanes], errors[V::lanes];
        V::store(squares, s.squares);
        V::store(errors, s.errors);
        for (int r = 0; r < rows.wanted; ++r) {
            rows.squares[r] += static_cast<double>(squares[r]);
            rows.errors[r] += static_cast<double>(errors[r]);
            uint8_t* to = rows.out + static_cast<size_t>(r) * rows.row_bytes + b * f.bytes;
            for (int i = 0; i < f.bytes; ++i) to[i] = s.byte[i][r];
        }
    }
}

template <class V>
void to_halves(const float* x, int64_t n, uint8_t* out) {
    int64_t i = 0;
    for (; i + V::lanes <= n; i += V::lanes) V::store_f16(out + 2 * i, V::load(x + i));
    for (; i < n; ++i) {
        const uint16_t half = float_to_half(x[i]);
        std::memcpy(out + 2 * i, &half, 2);
    }
}

template <class V>
void from_halves(const uint8_t* halves, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + V::lanes <= n; i += V::lanes) V::store(out + i, V::load_f16(halves + 2 * i));
    for (; i < n; ++i) {
        uint16_t half;
        std::memcpy(&half, halves + 2 * i, 2);
        out[i] = half_to_float(half);
    }
}

template <class V, Type type, void (*block)(Strip<V>&)>
constexpr void add_quantiser(Quantisers& table) {
    table.strip[static_cast<int>(type)] = quantise_strip<V, type, block>;
}

template <class V>
constexpr Quantisers make_quantisers() {
    Quantisers table{};
    table.lanes = V::lanes;
    table.to_halves = to_halves<V>;
    table.from_halves = from_halves<V>;
    add_quantiser<V, Type::Q8_0, quantise_q8_0<V>>(table);
    add_quantiser<V, Type::Q4_0, quantise_about_zero<V, 8>>(table);
    add_quantiser<V, Type::Q5_0, quantise_about_zero<V, 16>>(table);
    add_quantiser<V, Type::Q4_1, quantise_from_low<V, 15>>(table);
    add_quantiser<V, Type::Q5_1, quantise_from_low<V, 31>>(table);
    add_quantiser<V, Type::Q2_K, quantise_q2_k<V>>(table);
    add_quantiser<V, Type::Q3_K, quantise_q3_k<V>>(table);
    add_quantiser<V, Type::Q4_K, quantise_q4_q5_k<V, 15>>(table);
    add_quantiser<V, Type::Q5_K, quantise_q4_q5_k<V, 31>>(table);
    add_quantiser<V, Type::Q6_K, quantise_q6_k<V>>(table);
    add_quantiser<V, Type::IQ4_NL, quantise_iq4_nl<V>>(table);
    add_quantiser<V, Type::IQ4_XS, quantise_iq4_xs<V>>(table);
    add_quantiser<V, Type::MXFP4, quantise_mxfp4<V>>(table);
    return table;
}

}  // namespace localllm
