#include "runtime/largest.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace localllm {

// Values come in where they exceed the least of the best so far; what has come in is cut to the best whenever it has
// grown to twice as many. So the work is proportional to n in any order of the values, and in a random order nearly all
// of it is one comparison each, many at a time.
template <class T>
std::vector<int64_t> largest(const T* values, int64_t n, int64_t wanted) {
    struct Entry {
        T value;
        int64_t place;
    };
    constexpr int64_t block = 32;
    const auto before = [](const Entry& a, const Entry& b) {
        return a.value > b.value || (a.value == b.value && a.place < b.place);
    };
    const auto count = static_cast<size_t>(std::min(wanted, n));
    const size_t room = std::max<size_t>(2 * count, 2 * block);
    std::vector<Entry> kept;
    T bound = std::numeric_limits<T>::quiet_NaN();  // before the first cut everything exceeds it
    const auto exceeds = [&](T value) { return !(value <= bound); };
    const auto cut = [&] {
        if (kept.size() <= count) return;
        std::nth_element(kept.begin(), kept.begin() + (count - 1), kept.end(), before);
        kept.resize(count);
        bound = kept.back().value;
    };
    for (int64_t start = 0; start < n; start += block) {
        const int64_t end = std::min(start + block, n);
        if (end - start == block) {  // of a known length and without a branch: compilers make vectors of it
            int any = 0;
            for (int64_t i = 0; i < block; ++i) any |= exceeds(values[start + i]);
            if (!any) continue;
        }
        for (int64_t i = start; i < end; ++i)
            if (exceeds(values[i]))
                kept.push_back({std::isnan(values[i]) ? std::numeric_limits<T>::infinity() : values[i], i});
        if (kept.size() >= room) cut();
    }
    cut();
    std::sort(kept.begin(), kept.end(), before);
    std::vector<int64_t> places(kept.size());
    std::transform(kept.begin(), kept.end(), places.begin(), [](const Entry& entry) { return entry.place; });
    return places;
}

template std::vector<int64_t> largest(const float*, int64_t, int64_t);
template std::vector<int64_t> largest(const double*, int64_t, int64_t);

}  // namespace localllm
