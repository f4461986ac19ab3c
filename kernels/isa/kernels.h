// The table of hot functions, one for each instruction set; chosen once at start-up.
#pragma once

#include <string>
#include <vector>

#include "attention/attend_both_ways.h"
#include "attention/splits.h"
#include "gemm/activations.h"
#include "gemm/slab.h"
#include "isa/elementwise.h"
#include "measure/probes.h"
#include "quant/format.h"

namespace localllm {

struct Kernels {
    const char* name;
    int columns;  // widest column tile: 4 or 8
    // [type][log2 columns]: y[column][16] = panel * tile
    void (*quantised[static_cast<int>(Type::count)][4])(const uint8_t* panel, int k, const QuantTile& x, float* y);
    void (*floating[kFloatTypes][4])(const uint8_t* panel, int k, const float* x, float* y);
    // Many columns: [type] and [type][tile of 8 columns instead of 4]; see gemm/slab.h
    void (*expand[static_cast<int>(Type::count)])(const uint8_t* panel, int first, int count, Slab& slab, int which);
    void (*slab[static_cast<int>(Type::count)][2])(const Slab& slab, int first, int count, const QuantTile& x,
                                                   float* y);
    void (*slab_float[kFloatTypes][2])(const Slab& slab, int first, int count, const float* x, float* y);
    void (*quantise_column)(const float* x, QuantTile& tile, int column);
    void (*pair_column)(const float* x, FloatTile& tile, int column);  // null: bfloat16 is widened
    void (*attend[kCacheTypes][4])(const Attend&);                     // [cache type][log2 rows]
    void (*combine)(float* parts, int count, int64_t stride, int head_dim, float* out);
    void (*attend_both_ways)(const AttendBothWays&);
    void (*store_token[kCacheTypes])(int head_dim, uint8_t* keys, uint8_t* values, int slot, const float* k,
                                     const float* v);
    void (*rms_norm)(const float* x, const float* weight, float* out, int n, float eps);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float* out, int n, float eps);
    void (*act)(const float* x, float* out, int n, Activation kind);
    void (*gated_act)(const float* gate, const float* up, float* out, int n, Activation kind);
    void (*add_scaled)(const float* a, const float* b, float factor, float* out, int n);
    void (*softcap)(float* x, int n, float cap);
    Probes probes;

    // Weights of this type are multiplied with activations in pairs (see FloatTile).
    bool pairs(Type type) const { return type == Type::BF16 && pair_column; }
};

extern const Kernels kScalarKernels;
#ifdef LOCALLLM_X86
extern const Kernels kAvx2Kernels, kAvxVnniKernels, kAvx512Kernels;
// Lets a table for AVX-512 multiply bfloat16 as it is.
void multiply_bf16(Kernels& kernels);
#elif defined(LOCALLLM_ARM64)
extern const Kernels kNeonKernels, kNeonDotKernels;
#endif

// Instruction sets of this build that this processor can run, best first; always ends with "scalar".
std::vector<const Kernels*> available_kernels();

// Operations per second of the linear kernel (4-bit weights, 4 columns, data in the first cache), on one thread. Takes
// well under a millisecond: some processors run their widest vectors at half the rate, or lower their clock for them.
double measured_rate(const Kernels& kernels);

// The widest available unless a narrower one measures a quarter faster, or the one LOCALLLM_ISA names. Throws
// std::runtime_error for a name that is not available.
const Kernels& kernels();

}  // namespace localllm
