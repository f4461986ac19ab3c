// What an importance matrix is made of: for each weight, the sums of the squares of what it is multiplied with.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "quant/format.h"
#include "runtime/thread_pool.h"

namespace localllm {

// Over all rows that a matrix was multiplied with, for each of its columns.
struct InputSquares {
    std::vector<double> sums;   // [matrices][cols]
    std::vector<int64_t> rows;  // [matrices]
};

using Squares = std::map<const PackedMatrix*, InputSquares>;

// Adds the squares of `count` rows, `row(0)` and so on, to those of one matrix of weights of one input. Called by all
// threads: each takes some columns of all rows, so a sum does not depend on how many threads there are.
template <class Row>
void add_squares(const Team& team, std::span<InputSquares* const> of, int matrix, int count, int cols, Row row) {
    const auto [begin, end] = team.share(cols);
    std::vector<double> sums(end - begin);
    for (int i = 0; i < count; ++i) {
        const float* x = row(i) + begin;
        for (double& sum : sums) {
            sum += static_cast<double>(*x) * *x;
            ++x;
        }
    }
    for (InputSquares* squares : of) {
        double* to = squares->sums.data() + static_cast<int64_t>(matrix) * cols + begin;
        for (double sum : sums) *to++ += sum;
        if (team.index == 0) squares->rows[matrix] += count;
    }
}

}  // namespace localllm
