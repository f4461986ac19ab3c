// Quantises a weight: rows are read, checked and handed to the quantisers strip by strip, by several threads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string_view>
#include <vector>

#include "quant/quantisers.h"
#include "runtime/thread_pool.h"

namespace localllm {

namespace {

bool all_finite(const float* x, int64_t n) {
    uint32_t found = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        found |= static_cast<uint32_t>((bits & 0x7f800000) == 0x7f800000);
    }
    return found == 0;
}

uint16_t float_to_bfloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Rows that are stored as floating numbers.
void store_floats(const Quantisers& with, Type type, StripRows& rows) {
    constexpr int step = 256;
    float back[step];
    for (int r = 0; r < rows.wanted; ++r) {
        rows.squares[r] = rows.errors[r] = 0;
        for (int first = 0; first < rows.cols; first += step) {
            const int n = std::min(step, rows.cols - first);
            const float* x = rows.values + static_cast<size_t>(r) * rows.cols + first;
            uint8_t* out =
                rows.out + static_cast<size_t>(r) * rows.row_bytes + static_cast<size_t>(first) * format(type).bytes;
            if (type == Type::F32) {
                std::memcpy(out, x, static_cast<size_t>(n) * 4);
            } else if (type == Type::F16) {
                with.to_halves(x, n, out);
            } else {
                for (int c = 0; c < n; ++c) {
                    const uint16_t bits = float_to_bfloat(x[c]);
                    std::memcpy(out + 2 * c, &bits, 2);
                }
            }
            dequantize(type, out, static_cast<size_t>(n), back);
            for (int c = 0; c < n; ++c) {
                const double v = x[c], off = back[c] - v;
                rows.squares[r] += v * v;
                rows.errors[r] += off * off;
            }
        }
    }
}

}  // namespace

const Quantisers& quantisers_of(const char* kernels) {
    [[maybe_unused]] const std::string_view name = kernels;
#ifdef LOCALLLM_X86
    if (name.substr(0, 6) == "avx512") return kAvx512Quantisers;
    if (name.substr(0, 3) == "avx") return kAvx2Quantisers;
#elif defined(LOCALLLM_ARM64)
    if (name.substr(0, 4) == "neon") return kNeonQuantisers;
#endif
    return kScalarQuantisers;
}

Quantised quantise(const Quantisers& with, Type type, Type source, const uint8_t* data, int64_t rows, int cols,
                   const float* importance, int threads, uint8_t* out) {
    const auto row_bytes = [&](Type t) { return static_cast<size_t>(cols / format(t).block) * format(t).bytes; };
    const size_t in_bytes = row_bytes(source), out_bytes = row_bytes(type);
    const int lanes = with.lanes;
    const int strips = static_cast<int>((rows + lanes - 1) / lanes);
    std::vector<double> squares(static_cast<size_t>(rows)), errors(static_cast<size_t>(rows));
    std::atomic<int> next{0};
    std::atomic<int64_t> bad{rows};
    ThreadPool pool(std::min(threads, strips));
    std::vector<std::vector<float>> buffers(static_cast<size_t>(pool.size()));  // here, where it may throw
    for (auto& buffer : buffers) buffer.resize(static_cast<size_t>(lanes) * cols);
    pool.run([&](Team& team) {
        std::vector<float>& values = buffers[static_cast<size_t>(team.index)];
        team.claim(next, strips, [&](int strip) {
            const int64_t first = static_cast<int64_t>(strip) * lanes;
            StripRows part{};
            part.values = values.data();
            part.cols = cols;
            part.importance = importance;
            part.out = out + static_cast<size_t>(first) * out_bytes;
            part.row_bytes = out_bytes;
            part.wanted = static_cast<int>(std::min<int64_t>(lanes, rows - first));
            const auto n = static_cast<int64_t>(part.wanted) * cols;
            const uint8_t* from = data + static_cast<size_t>(first) * in_bytes;
            if (source == Type::F16)
                with.from_halves(from, n, values.data());
            else
                dequantize(source, from, static_cast<size_t>(n), values.data());
            std::fill(values.begin() + n, values.end(), 0.0f);  // the rows that the last strip lacks
            if (is_float(type))
                store_floats(with, type, part);
            else
                with.strip[static_cast<int>(type)](part);
            for (int r = 0; r < part.wanted; ++r) {
                const int64_t row = first + r;
                squares[static_cast<size_t>(row)] = part.squares[r];
                errors[static_cast<size_t>(row)] = part.errors[r];
                // What is too large for a half scale comes back as infinite.
                if (all_finite(values.data() + static_cast<int64_t>(r) * cols, cols) && part.errors[r] < 1e300)
                    continue;
                int64_t seen = bad.load();
                while (row < seen && !bad.compare_exchange_weak(seen, row)) {
                }
            }
        });
    });
    Quantised result;
    for (double s : squares) result.squares += s;
    for (double e : errors) result.errors += e;
    if (bad < rows) result.bad_row = bad;
    return result;
}

}  // namespace localllm
