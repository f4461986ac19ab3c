// The likeliest tokens of a row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace localllm {

// The places of the `wanted` > 0 largest of n values (all, where there are not so many), the largest first, of equal
// ones the first. NaN counts as infinity, so that it is not overlooked. T is float or double.
template <class T>
std::vector<int64_t> largest(const T* values, int64_t n, int64_t wanted);

}  // namespace localllm
