// What adapters add to a Linear (see adapters.h): A x first, for all of the operation's weights, then B (A x) beside
// each weight's own products. Both are products of float weights like others, and only the rows of sequences with an
// adapter take part in them.
#pragma once

#include <vector>

#include "gemm/tiles.h"
#include "runtime/operations.h"

namespace localllm {

// One thread's view of one operation in one step.
class Corrections {
  public:
    Corrections(const Kernels& kernels, const Linear& op, const Step& step);

    // Where nothing is added, nothing below is called.
    bool none() const { return tiles_.empty(); }
    size_t input_bytes() const { return input_bytes_; }
    size_t reduced_bytes() const { return sizeof(float) * reduced_floats_ * parts_; }

    // Prepares the inputs of tiles [begin, end) of them at `inputs`; `row(slot)` is one of the operation's.
    int tiles() const { return static_cast<int>(tiles_.size()); }
    template <class Row>
    void prepare(int64_t begin, int64_t end, uint8_t* inputs, Row row) const {
        Prepared to;
        to.floats = inputs;
        to.wide = true;
        for (int64_t i = begin; i < end; ++i) prepare_tile(kernels_, tiles_[i], k_, to, row);
    }

    // Multiplies part of a tile's columns with one panel of an A; the parts are added up by `gather`, for one thread.
    int reductions() const { return static_cast<int>(reductions_.size()); }
    void reduce(int index, const uint8_t* inputs, float* reduced) const;
    void gather(const float* reduced);

    // What is added to the results of a slab of a target.
    class Addend {
      public:
        // Adds it to `count` results from row `first` of a panel on, [tile.valid][16].
        void add(const Tile& tile, int first, int count, float* y) const;

      private:
        friend class Corrections;
        int first_ = 0;  // row of the weight
        std::vector<float> values_;
    };
    void expand(int target, int slab, Addend& out) const;

  private:
    struct Product {  // a tile with the A and B of one target
        int tile;
        const LowRank* term;
        size_t reduced;  // offset of A x: [rank][columns of the tile]
    };
    struct Reduction {
        int target, product, panel, part;
    };
    const Kernels& kernels_;
    const int rows_, k_, parts_;
    std::vector<Tile> tiles_;                     // of rows that use one adapter
    std::vector<std::vector<Product>> products_;  // of each target
    std::vector<Reduction> reductions_;
    size_t input_bytes_ = 0, reduced_floats_ = 0;
    std::vector<float> sums_;  // A x of all products
};

}  // namespace localllm
