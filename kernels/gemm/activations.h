// Activations prepared for the linear kernels: tiles of up to 8 columns (tokens), interleaved so that one pointer
// with constant offsets reaches every column.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/format.h"

namespace localllm {

constexpr int kTileColumns = 8;

constexpr int log2_of(int n) {
    return n <= 1 ? 0 : 1 + log2_of(n / 2);
}

// Quantised tile of `columns` tokens and `k` features, in one allocation:
//   q       int8  [k/4][columns][4]    x = scale * q, 127 steps to the largest of 32 features
//   scale   float [k/32][columns]
//   seed32  int32 [k/32][columns]      -sum of q over 32, for codes with a constant offset
//   sum32   float [k/32][columns]      scale * sum of q over 32, for codes with a minimum
//   seed16  int32 [k/16][columns], sum16 float [k/16][columns]: the same over 16
struct QuantTile {
    int columns, k;
    int8_t* q;
    float* scale;
    int32_t* seed32;
    float* sum32;
    int32_t* seed16;
    float* sum16;

    QuantTile(uint8_t* memory, int columns, int k) : columns(columns), k(k) {
        const size_t n = static_cast<size_t>(k) * columns;
        q = reinterpret_cast<int8_t*>(memory);
        scale = reinterpret_cast<float*>(memory + align64(n));
        seed32 = reinterpret_cast<int32_t*>(scale + n / 32);
        sum32 = reinterpret_cast<float*>(seed32 + n / 32);
        seed16 = reinterpret_cast<int32_t*>(sum32 + n / 32);
        sum16 = reinterpret_cast<float*>(seed16 + n / 16);
    }
    static size_t bytes(int columns, int k) {
        const size_t n = static_cast<size_t>(k) * columns;
        return align64(align64(n) + n / 32 * 12 + n / 16 * 8);
    }
};

// The same for float weights:
//   wide    float [k][columns]
//   pairs   bfloat16 [(k + 1) / 2][columns][2], rounded, the last one of an odd k with a zero; for kernels that
//           multiply bfloat16 as it is
struct FloatTile {
    int columns, k;
    float *wide, *pairs;  // words of 4 bytes, both

    FloatTile(uint8_t* memory, int columns, int k)
        : columns(columns),
          k(k),
          wide(reinterpret_cast<float*>(memory)),
          pairs(reinterpret_cast<float*>(memory + align64(sizeof(float) * k * columns))) {}
    static size_t bytes(int columns, int k) {
        return align64(sizeof(float) * k * columns) + align64(sizeof(float) * ((k + 1) / 2) * columns);
    }
};

}  // namespace localllm
