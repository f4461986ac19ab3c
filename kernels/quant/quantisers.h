// The quantisers of one vector vocabulary, by type, and what calls them for all rows of a weight.
#pragma once

#include "quant/format.h"

namespace localllm {

// Rows of one strip: what they are made of and where their blocks go.
struct StripRows {
    const float* values;  // [lanes][cols], the rows that are wanted first
    int cols;
    const float* importance;  // [cols]; may be null
    uint8_t* out;             // [wanted][row_bytes]
    size_t row_bytes;
    int wanted;
    double squares[16], errors[16];  // sums for each row: x^2, and (stored value - x)^2
};

struct Quantisers {
    int lanes;
    void (*strip[static_cast<int>(Type::count)])(StripRows& rows);
    // n values as halves, and halves as values.
    void (*to_halves)(const float* x, int64_t n, uint8_t* out);
    void (*from_halves)(const uint8_t* halves, int64_t n, float* out);
};

extern const Quantisers kScalarQuantisers;
#ifdef LOCALLLM_X86
extern const Quantisers kAvx2Quantisers, kAvx512Quantisers;
#elif defined(LOCALLLM_ARM64)
extern const Quantisers kNeonQuantisers;
#endif

// Those that go with the kernels of this name.
const Quantisers& quantisers_of(const char* kernels);

// What became of the rows of a weight.
struct Quantised {
    double squares = 0, errors = 0;  // sums over all values: x^2, and (stored value - x)^2
    int64_t bad_row = -1;            // the first row with a value that is not finite, or too large for the type
};

// Quantises `rows` rows of `cols` values stored as `source`; the same bytes with any number of threads and any of the
// tables. Columns are whole blocks of both types.
Quantised quantise(const Quantisers& with, Type type, Type source, const uint8_t* data, int64_t rows, int cols,
                   const float* importance, int threads, uint8_t* out);

}  // namespace localllm
