// The kernels and the runtime without Python, for the sanitizer build: every input and output
// stands in memory of its exact size, so that a load or store past an end is seen. `kernel_tests
// NAME...` runs some of the parts.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gemm/tiles.h"
#include "runtime/operations.h"
#include "runtime/program.h"

namespace localllm {
namespace {

int passed = 0;

void check(bool right, const char* form, ...) {
    if (right) {
        ++passed;
        return;
    }
    std::fputs("FAILED: ", stderr);
    va_list parts;
    va_start(parts, form);
    std::vfprintf(stderr, form, parts);
    va_end(parts);
    std::fputs("\n", stderr);
    std::exit(1);
}

// xorshift64*
struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 2654435761u + 88172645463325252u) {}
    uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<uint32_t>((state * 2685821657736338717u) >> 32);
    }
    int below(int n) { return static_cast<int>(next() % static_cast<uint32_t>(n)); }
    int between(int low, int high) { return low + below(high - low + 1); }
    float uniform(float low, float high) { return low + (high - low) * (static_cast<float>(next() >> 8) * 0x1p-24f); }
    float normal() {  // nearly
        float sum = 0;
        for (int i = 0; i < 6; ++i) sum += uniform(-1, 1);
        return sum * 0.70710678f;
    }
    template <class T>
    const T& pick(const std::vector<T>& from) {
        return from[below(static_cast<int>(from.size()))];
    }
};

// Heap memory of exactly n elements, 64-byte aligned and zero.
template <class T>
class Exact {
  public:
    explicit Exact(size_t n)
        : n_(n), data_(static_cast<T*>(::operator new(std::max<size_t>(n * sizeof(T), 1), std::align_val_t(64)))) {
        std::memset(static_cast<void*>(data_), 0, n * sizeof(T));
    }
    Exact(Exact&& other) noexcept : n_(other.n_), data_(std::exchange(other.data_, nullptr)) {}
    ~Exact() { ::operator delete(data_, std::align_val_t(64)); }
    T* data() const { return data_; }
    size_t size() const { return n_; }
    T& operator[](size_t i) const { return data_[i]; }
    T* begin() const { return data_; }
    T* end() const { return data_ + n_; }

  private:
    size_t n_;
    T* data_;
};

Exact<float> normals(Random& random, size_t n, float size = 1) {
    Exact<float> out(n);
    for (float& x : out) x = random.normal() * size;
    return out;
}

std::vector<Type> all_types() {
    std::vector<Type> types;
    for (int i = 0; i < static_cast<int>(Type::count); ++i) types.push_back(static_cast<Type>(i));
    return types;
}

// GGUF bytes of a weight: every code random, the fp16 fields of moderate size and either sign.
Exact<uint8_t> random_weight(Random& random, Type type, int64_t elements) {
    const Format& f = format(type);
    Exact<uint8_t> out(static_cast<size_t>(elements / f.block * f.bytes));
    auto half = [&](uint8_t* p) {
        const uint16_t bits = float_to_half(random.uniform(0.01f, 0.02f) * (random.below(2) ? 1.0f : -1.0f));
        std::memcpy(p, &bits, 2);
    };
    if (type == Type::F32) {
        for (int64_t i = 0; i < elements; ++i) {
            const float x = random.normal();
            std::memcpy(out.data() + 4 * i, &x, 4);
        }
        return out;
    }
    for (uint8_t* p = out.begin(); p < out.end(); p += f.bytes) {
        for (int i = 0; i < f.bytes; ++i) p[i] = static_cast<uint8_t>(random.next());
        switch (type) {
            case Type::F16:
                half(p);
                break;
            case Type::BF16:
                p[1] = static_cast<uint8_t>(0x3b + random.below(5) + 0x80 * random.below(2));
                break;
            case Type::Q4_1:
            case Type::Q5_1:
            case Type::Q4_K:
            case Type::Q5_K:
                half(p);
                half(p + 2);
                break;
            case Type::Q2_K:
                half(p + 80);
                half(p + 82);
                break;
            case Type::Q3_K:
                half(p + 108);
                break;
            case Type::Q6_K:
                half(p + 208);
                break;
            case Type::MXFP4:
                p[0] = static_cast<uint8_t>(random.between(118, 126));
                break;
            default:
                half(p);
                break;
        }
    }
    return out;
}

std::vector<float> values_of(Type type, const Exact<uint8_t>& data, int64_t elements) {
    std::vector<float> out(static_cast<size_t>(elements));
    dequantize(type, data.data(), out.size(), out.data());
    return out;
}

// `x` as the linear kernels see it for quantised weights.
std::vector<double> requantised(const float* x, int n, int run) {
    std::vector<double> out(n);
    for (int start = 0; start < n; start += run) {
        float top = 0;
        for (int i = start; i < start + run; ++i) top = std::max(top, std::fabs(x[i]));
        const float inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
        for (int i = start; i < start + run; ++i) out[i] = static_cast<double>(scale) * std::nearbyint(x[i] * inverse);
    }
    return out;
}

void test_half() {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const float x = half_to_float(static_cast<uint16_t>(bits));
        if (x != x)
            check((float_to_half(x) & 0x7fff) > 0x7c00, "half %04x is not a number and must stay so", bits);
        else
            check(float_to_half(x) == bits, "half %04x does not survive", bits);
    }
    Random random(1);
    for (int i = 0; i < 200000; ++i) {
        const float x = std::ldexp(random.uniform(1, 2), random.between(-27, 15)) * (random.below(2) ? 1.0f : -1.0f);
        const uint16_t bits = float_to_half(x);
        const float error = std::fabs(half_to_float(bits) - x);
        for (int step : {-1, 1}) {
            const uint16_t other = static_cast<uint16_t>(bits + step);
            if ((bits & 0x7fff) == 0 || (bits & 0x7c00) == 0x7c00 || (other & 0x7c00) == 0x7c00) continue;
            const float distance = std::fabs(half_to_float(other) - x);
            check(error < distance || (error == distance && !(bits & 1)), "half of %g is not the nearest",
                  static_cast<double>(x));
        }
    }
    check(float_to_half(65519.0f) == 0x7bff && float_to_half(65520.0f) == 0x7c00, "half overflows at the wrong place");
}

// Packs and multiplies one weight; every tile width, every panel, against the dequantised rows.
void check_linear(const Kernels& kernels, Random& random, Type type, int rows, int cols, int count) {
    const Format& f = format(type);
    const int matrices = random.between(1, 2), which = matrices - 1;
    const Exact<uint8_t> data = random_weight(random, type, static_cast<int64_t>(matrices) * rows * cols);
    const std::vector<float> w = values_of(type, data, static_cast<int64_t>(matrices) * rows * cols);
    PackedMatrix packed(type, matrices, rows, cols);
    Exact<uint8_t> memory(packed.bytes());
    packed.data = memory.data();
    for (int m = 0; m < matrices; ++m)
        for (int panel = 0; panel < packed.panels; ++panel) pack_panel(data.data(), packed, m, panel);

    const Exact<float> x = normals(random, static_cast<size_t>(count) * cols);
    std::vector<Tile> tiles;
    append_tiles(tiles, which, 0, count, kernels.columns, cols);
    const Tile& last = tiles.back();
    const bool floats = is_float(type);
    Exact<uint8_t> quants(floats ? 0 : last.quant_offset + QuantTile::bytes(last.columns(), cols));
    Exact<uint8_t> wide(floats ? last.float_offset + sizeof(float) * cols * last.columns() : 0);
    check(last.quant_offset + QuantTile::bytes(last.columns(), cols) <= quant_room(count, 1, cols),
          "quant_room is too small");
    check(last.float_offset + sizeof(float) * cols * last.columns() <= float_room(count, 1, cols),
          "float_room is too small");
    Prepared prepared;
    prepared.add(packed, quants.data(), wide.data());
    Exact<float> y(static_cast<size_t>(count) * rows);
    for (const Tile& tile : tiles) {
        prepare_tile(kernels, tile, cols, prepared,
                     [&](int slot) { return x.data() + static_cast<size_t>(slot) * cols; });
        for (int panel = 0; panel < packed.panels; ++panel)
            multiply(kernels, packed, panel, tile, prepared, [&](int slot, int first, int n, const float* values) {
                std::copy(values, values + n, y.data() + static_cast<size_t>(slot) * rows + first);
            });
    }
    for (int t = 0; t < count; ++t) {
        const float* row = x.data() + static_cast<size_t>(t) * cols;
        const std::vector<double> seen = floats ? std::vector<double>(row, row + cols) : requantised(row, cols, kChunk);
        for (int r = 0; r < rows; ++r) {
            double sum = 0, size = 1e-20;
            for (int c = 0; c < cols; ++c) {
                const double term =
                    seen[c] * static_cast<double>(w[(static_cast<size_t>(which) * rows + r) * cols + c]);
                sum += term;
                size += std::fabs(term);
            }
            const double error = std::fabs(y[static_cast<size_t>(t) * rows + r] - sum) / size;
            check(error < 3e-6, "%s %s %dx%d, %d columns: row %d of token %d is off by %g", kernels.name, f.name, rows,
                  cols, count, r, t, error);
        }
    }
}

void test_linear() {
    for (const Kernels* kernels : available_kernels())
        for (Type type : all_types()) {
            Random random(static_cast<uint64_t>(type) + 1);
            const int block = format(type).block;
            const std::vector<int> sizes = block == 1    ? std::vector<int>{1, 7, 33, 160}
                                           : block == 32 ? std::vector<int>{32, 96, 160}
                                                         : std::vector<int>{256, 512};
            for (int cols : sizes)
                for (int count : {1, 2, 3, 4, 5, 8, 13})
                    check_linear(*kernels, random, type, random.pick<int>({1, 15, 16, 17, 37}), cols, count);
        }
}

void test_elementwise() {
    for (const Kernels* kernels : available_kernels())
        for (int n : {1, 3, 8, 15, 16, 17, 31, 64, 1030}) {
            Random random(static_cast<uint64_t>(n));
            const Exact<float> a = normals(random, n, 3), b = normals(random, n), out(n);
            double squares = 0;
            for (float x : a) squares += static_cast<double>(x) * static_cast<double>(x);
            kernels->rms_norm(a.data(), b.data(), out.data(), n, 1e-5f);
            for (int i = 0; i < n; ++i) {
                const double wanted = a[i] / std::sqrt(squares / n + 1e-5) * static_cast<double>(b[i]);
                check(std::fabs(out[i] - wanted) <= 2e-6 * std::fabs(wanted), "%s norm of %d", kernels->name, n);
            }
            for (Activation kind : {Activation::silu, Activation::gelu}) {
                kernels->gated_act(a.data(), b.data(), out.data(), n, kind);
                for (int i = 0; i < n; ++i) {
                    const double x = a[i], inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
                    const double wanted =
                        (kind == Activation::silu ? x / (1 + std::exp(-x)) : 0.5 * x * (1 + std::tanh(inner))) *
                        static_cast<double>(b[i]);
                    check(std::fabs(out[i] - wanted) <= 1e-6 * std::fabs(x * static_cast<double>(b[i])) + 1e-30,
                          "%s activation of %d", kernels->name, n);
                }
            }
            kernels->add_scaled(a.data(), b.data(), 1.0f, out.data(), n);
            for (int i = 0; i < n; ++i) check(out[i] == a[i] + b[i], "%s sum of %d", kernels->name, n);
            std::copy(a.begin(), a.end(), out.begin());
            kernels->softcap(out.data(), n, 2.0f);
            for (int i = 0; i < n; ++i)
                check(std::fabs(out[i] - 2 * std::tanh(a[i] / 2.0)) < 2e-6, "%s cap of %d", kernels->name, n);
        }
}

// What is not a number may give anything, without undefined conversions on the way.
void test_not_finite() {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    for (const Kernels* kernels : available_kernels())
        for (float bad : {std::nanf(""), kInf, -kInf, 3e38f, 1e-38f, 1e-45f}) {
            constexpr int n = 64;
            Random random(5);
            for (int all = 0; all < 2; ++all) {
                Exact<float> x = normals(random, n);
                for (int i = 0; i < n; ++i)
                    if (all || i == 37) x[i] = bad;
                Exact<uint8_t> memory(QuantTile::bytes(2, n));
                QuantTile tile(memory.data(), 2, n);
                for (int c = 0; c < 2; ++c) kernels->quantise_column(x.data(), tile, c);
                if (!std::isfinite(bad))
                    check(!std::isfinite(tile.scale[2]), "%s loses %g", kernels->name, static_cast<double>(bad));
                for (int i = 0; i < n * 2; ++i)
                    check(tile.q[i] >= -127, "%s rounds %g to -128", kernels->name, static_cast<double>(bad));
                for (CacheType type : {CacheType::f16, CacheType::int8}) {
                    const Cache cache(1, 1, n, 1, type);
                    const int kind = static_cast<int>(type);
                    for (int slot = 0; slot < 3; ++slot)
                        kernels->store_token[kind](cache, cache.head(0, 0, 0), slot, x.data(), x.data());
                    const int32_t table[1] = {0};
                    Exact<float> out(n);
                    Attend a{};
                    a.cache = &cache;
                    a.table = table;
                    a.q[0] = x.data();
                    a.out[0] = out.data();
                    a.last[0] = 3;
                    a.scale = 0.1f;
                    a.softcap = all ? 5.0f : 0.0f;
                    kernels->attend[kind][0](a);
                    ++passed;
                }
                kernels->rms_norm(x.data(), x.data(), x.data(), n, 1e-6f);
                kernels->gated_act(x.data(), x.data(), x.data(), n, Activation::gelu);
                kernels->gated_act(x.data(), x.data(), x.data(), n, Activation::silu);
                kernels->softcap(x.data(), n, 5.0f);
            }
        }
}

struct Shape {
    int heads, kv_heads, head_dim, window;
    float scale, softcap;
};

// Attention of one KV head over a paged history, all group sizes; queries, outputs and table of
// exact size.
void check_attention(const Kernels& kernels, Random& random, CacheType type, const Shape& s) {
    const int length = random.between(1, 100), group = s.heads / s.kv_heads, kind = static_cast<int>(type);
    const int pages = (length + kPageTokens - 1) / kPageTokens, spare = pages + 2, d = s.head_dim;
    const Cache cache(2, s.kv_heads, d, spare, type);
    Exact<int32_t> table(pages);
    for (int p = 0; p < pages; ++p) table[p] = (p * 2 + 1) % spare == p ? p : spare - 1 - p;
    const int layer = random.below(2);
    const Exact<float> k = normals(random, static_cast<size_t>(length) * s.kv_heads * d), v = normals(random, k.size());
    auto seen = [&](const float* x) {
        if (type == CacheType::int8) return requantised(x, d, d);
        std::vector<double> out(d);
        for (int i = 0; i < d; ++i) out[i] = half_to_float(float_to_half(x[i]));
        return out;
    };
    for (int h = 0; h < s.kv_heads; ++h) {
        for (int t = 0; t < length; ++t) {
            const size_t at = (static_cast<size_t>(t) * s.kv_heads + h) * d;
            kernels.store_token[kind](cache, cache.head(layer, table[t / kPageTokens], h), t % kPageTokens,
                                      k.data() + at, v.data() + at);
        }
        int slot = 0;
        while ((1 << slot) < std::min(group, kernels.columns)) ++slot;
        const int rows = 1 << slot;
        Attend a{};
        a.cache = &cache;
        a.layer = layer;
        a.kv_head = h;
        a.table = table.data();
        a.scale = s.scale;
        a.softcap = s.softcap;
        std::vector<Exact<float>> q, out;
        for (int r = 0; r < rows; ++r) {
            q.push_back(normals(random, d));
            out.emplace_back(d);
            a.q[r] = q[r].data();
            a.out[r] = out[r].data();
            a.last[r] = random.between(std::max(1, length - 5), length);
            a.first[r] = s.window > 0 ? std::max(0, a.last[r] - s.window) : 0;
        }
        kernels.attend[kind][slot](a);
        for (int r = 0; r < rows; ++r) {
            const std::vector<double> query =
                type == CacheType::int8 ? seen(a.q[r]) : std::vector<double>(a.q[r], a.q[r] + d);
            std::vector<double> score, sum(d);
            double top = -1e300, total = 0;
            for (int t = a.first[r]; t < a.last[r]; ++t) {
                const std::vector<double> key = seen(k.data() + (static_cast<size_t>(t) * s.kv_heads + h) * d);
                double dot = 0;
                for (int i = 0; i < d; ++i) dot += query[i] * key[i];
                dot *= static_cast<double>(s.scale);
                if (s.softcap > 0) dot = s.softcap * std::tanh(dot / s.softcap);
                score.push_back(dot);
                top = std::max(top, dot);
            }
            for (int t = a.first[r]; t < a.last[r]; ++t) {
                const std::vector<double> value = seen(v.data() + (static_cast<size_t>(t) * s.kv_heads + h) * d);
                const double p = std::exp(score[t - a.first[r]] - top);
                total += p;
                for (int i = 0; i < d; ++i) sum[i] += p * value[i];
            }
            for (int i = 0; i < d; ++i)
                check(std::fabs(out[r][i] - sum[i] / total) < 2e-5,
                      "%s attention: %d tokens, head %d, row %d of %d, feature %d: %g for %g", kernels.name, length, d,
                      r, rows, i, static_cast<double>(out[r][i]), sum[i] / total);
        }
    }
}

void test_attention() {
    Random random(7);
    for (const Kernels* kernels : available_kernels())
        for (CacheType type : {CacheType::f16, CacheType::int8})
            for (int i = 0; i < 40; ++i) {
                Shape s{};
                s.kv_heads = random.between(1, 3);
                s.heads = s.kv_heads * random.pick<int>({1, 2, 3, 4, 7, 8});
                s.head_dim = 16 * random.pick<int>({1, 2, 3, 4, 5, 8, 32});
                s.window = random.below(2) ? 0 : random.between(1, 70);
                s.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
                s.softcap = random.below(2) ? 0.0f : 3.0f;
                check_attention(*kernels, random, type, s);
            }
}

void test_threads() {
    for (int size = 1; size <= 8; ++size)
        for (int round = 0; round < 20; ++round) {
            ThreadPool pool(size);  // started and stopped often, sometimes without work
            for (int i = 0; i < round % 3; ++i) {
                std::atomic<int> seen{0};
                pool.run([&](Team&) { ++seen; });
                check(seen == size, "a thread did not run");
            }
        }
    for (int size : {1, 2, 3, 4, 8}) {
        ThreadPool pool(size);
        std::vector<int> plain(size);  // written without atomics: the barriers order it
        int64_t total = 0;
        const int runs = 3000 / size;
        for (int run = 0; run < runs; ++run) {
            const int barriers = run % 4;
            pool.run([&](Team& team) {
                for (int b = 0; b <= barriers; ++b) {
                    plain[team.index] = run + b + team.index;
                    team.barrier();
                    if (team.index == b % team.size)
                        for (int i = 0; i < size; ++i) total += plain[i] - run - b - i + 1;
                    team.barrier();
                }
            });
            if (run % 97 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // long enough to fall asleep
        }
        int64_t wanted = 0;
        for (int run = 0; run < runs; ++run) wanted += static_cast<int64_t>(run % 4 + 1) * size;
        check(total == wanted, "%d threads passed their barriers out of step", size);
    }
    for (int size : {1, 2, 3, 7})
        for (int64_t n : {0, 1, 2, 6, 7, 8, 63, 64, 65, 1000})
            for (int64_t grain : {1, 16, 64}) {
                ThreadPool pool(size);
                std::vector<std::atomic<int>> taken(n);
                pool.run([&](Team& team) {
                    const auto [begin, end] = team.share(n, grain);
                    for (int64_t i = begin; i < end; ++i) ++taken[i];
                });
                for (const auto& count : taken)
                    check(count == 1, "shares of %d threads do not part %d items", size, static_cast<int>(n));
            }
}

// A random small transformer: every operation, types and shapes drawn.
class Model {
  public:
    Model(uint64_t seed, int threads, const Kernels& kernels) : program_(threads, kernels), random_(seed) {
        width = 256;
        vocabulary = random_.between(3, 20);
        kv_heads = random_.between(1, 2);
        heads = kv_heads * random_.between(1, 4);
        head_dim = 16 * random_.between(1, 4);
        layers = random_.between(1, 2);
        const int hidden = 256 * random_.between(1, 2), pairs = head_dim / 2 - random_.below(8);
        std::vector<float> inverse(pairs);
        for (int i = 0; i < pairs; ++i) inverse[i] = std::pow(1e4f, -static_cast<float>(i) / static_cast<float>(pairs));
        program_.vectors.push_back(inverse);
        program_.rotations.push_back({0, 1.0f});

        const Type type = draw();
        tables_.push_back(random_weight(random_, type, static_cast<int64_t>(vocabulary) * width));
        const int x = buffer(width), normed = buffer(width), branch = buffer(width);
        auto embed = std::make_unique<Embed>();
        embed->out = x;
        embed->scale = 3.0f;
        embed->table = {type, vocabulary, width, tables_.back().data()};
        program_.add(std::move(embed));
        const int q = buffer(heads * head_dim), k = buffer(kv_heads * head_dim), v = buffer(kv_heads * head_dim);
        const int mixed = buffer(heads * head_dim), gate = buffer(hidden), up = buffer(hidden);
        for (int layer = 0; layer < layers; ++layer) {
            norm(normed, x, width, width);
            linear(normed, {{heads * head_dim, q}, {kv_heads * head_dim, k}, {kv_heads * head_dim, v}}, width, false);
            norm(q, q, heads * head_dim, head_dim);
            rope(q, heads, pairs);
            rope(k, kv_heads, pairs);
            auto attention = std::make_unique<Attention>();
            attention->out = mixed;
            attention->q = q;
            attention->k = k;
            attention->v = v;
            attention->layer = layer;
            attention->heads = heads;
            attention->kv_heads = kv_heads;
            attention->head_dim = head_dim;
            attention->window = random_.below(2) ? 0 : random_.between(1, 40);
            attention->scale = 0.2f;
            attention->softcap = random_.below(2) ? 0.0f : 20.0f;
            program_.add(std::move(attention));
            linear(mixed, {{width, x}}, heads * head_dim, true);
            norm(normed, x, width, width);
            if (random_.below(2)) {
                linear(normed, {{hidden, gate}, {hidden, up}}, width, false);
                auto act = std::make_unique<GatedAct>();
                act->out = gate;
                act->gate = gate;
                act->up = up;
                act->width = hidden;
                act->kind = Activation::gelu;
                program_.add(std::move(act));
                linear(gate, {{width, branch}}, hidden, false);
            } else {
                auto experts = std::make_unique<Experts>();
                const int count = random_.between(2, 9);
                experts->out = branch;
                experts->x = normed;
                experts->used = random_.between(1, count);
                experts->normalise = random_.below(2) != 0;
                experts->scale = 1.0f;
                experts->kind = Activation::silu;
                experts->router = weight(1, count, width);
                experts->gate = weight(count, hidden, width);
                experts->up = weight(count, hidden, width);
                experts->down = weight(count, width, hidden);
                program_.add(std::move(experts));
            }
            auto add = std::make_unique<Add>();
            add->out = add->a = x;
            add->b = branch;
            add->width = width;
            program_.add(std::move(add));
        }
        const int chosen = buffer(width);
        logits_ = buffer(vocabulary);
        auto select = std::make_unique<Select>();
        select->out = chosen;
        select->x = x;
        select->width = width;
        program_.add(std::move(select));
        norm(chosen, chosen, width, width);
        linear(chosen, {{vocabulary, logits_}}, width, false);
        auto cap = std::make_unique<Softcap>();
        cap->x = logits_;
        cap->width = vocabulary;
        cap->cap = 30.0f;
        program_.add(std::move(cap));
    }

    int width, vocabulary, kv_heads, heads, head_dim, layers;

    // Appends `tokens` to each sequence of `pasts`; returns the logits of every row.
    std::vector<float> step(const Cache& cache, const std::vector<Exact<int32_t>>& tables,
                            const std::vector<int>& pasts, const std::vector<std::vector<int32_t>>& tokens) {
        Step s;
        s.cache = &cache;
        std::vector<int32_t> all;
        for (size_t i = 0; i < tokens.size(); ++i) {
            s.spans.push_back(
                {static_cast<int>(all.size()), static_cast<int>(tokens[i].size()), pasts[i], tables[i].data()});
            for (size_t j = 0; j < tokens[i].size(); ++j) s.positions.push_back(pasts[i] + static_cast<int32_t>(j));
            all.insert(all.end(), tokens[i].begin(), tokens[i].end());
        }
        Exact<int32_t> ids(all.size()), selected(all.size());
        std::copy(all.begin(), all.end(), ids.begin());
        for (size_t i = 0; i < all.size(); ++i) selected[i] = static_cast<int32_t>(i);
        s.rows = s.selected_rows = static_cast<int>(all.size());
        s.tokens = ids.data();
        s.selected = selected.data();
        program_.run(s);
        return {s.buffers[logits_], s.buffers[logits_] + all.size() * vocabulary};
    }

  private:
    Program program_;
    Random random_;
    std::vector<Exact<uint8_t>> tables_;
    int logits_ = 0;

    Type draw() { return static_cast<Type>(random_.below(static_cast<int>(Type::count))); }
    int buffer(int n) {
        program_.widths.push_back(n);
        return static_cast<int>(program_.widths.size()) - 1;
    }
    const PackedMatrix* weight(int matrices, int rows, int cols) {
        Type type = draw();
        if (cols % format(type).block) type = cols % 32 ? Type::F16 : Type::Q8_0;
        const Exact<uint8_t> data = random_weight(random_, type, static_cast<int64_t>(matrices) * rows * cols);
        return &program_.weights[program_.add_weight(type, matrices, rows, cols, data.data())];
    }
    void norm(int out, int x, int n, int group) {
        auto op = std::make_unique<Norm>();
        std::vector<float> scale(group);
        for (float& w : scale) w = random_.uniform(0.5f, 1.5f);
        program_.vectors.push_back(std::move(scale));
        op->out = out;
        op->x = x;
        op->width = n;
        op->group = group;
        op->eps = 1e-6f;
        op->weight = program_.vectors.back().data();
        program_.add(std::move(op));
    }
    void rope(int x, int count, int pairs) {
        auto op = std::make_unique<Rope>();
        op->x = x;
        op->heads = count;
        op->head_dim = head_dim;
        op->pairs = pairs;
        op->rotation = 0;
        op->interleaved = random_.below(2) != 0;
        program_.add(std::move(op));
    }
    void linear(int x, const std::vector<std::pair<int, int>>& targets, int cols, bool accumulate) {
        auto op = std::make_unique<Linear>();
        op->x = x;
        op->accumulate = accumulate;
        for (const auto& [rows, out] : targets) {
            const PackedMatrix* w = weight(1, rows, cols);
            const float* bias = nullptr;
            if (random_.below(2)) {
                std::vector<float> values(rows);
                for (float& b : values) b = random_.normal();
                program_.vectors.push_back(std::move(values));
                bias = program_.vectors.back().data();
            }
            op->targets.push_back({w, out, bias});
        }
        program_.add(std::move(op));
    }
};

// Three steps of three sequences; the same bits with any number of threads and with each sequence
// on its own.
void test_programs() {
    for (const Kernels* kernels : available_kernels())
        for (uint64_t seed = 1; seed <= 8; ++seed)
            for (CacheType type : {CacheType::f16, CacheType::int8}) {
                std::vector<float> first, alone;
                for (int threads : {1, 3, 0}) {  // 0: one thread, one sequence at a time
                    Model model(seed, std::max(threads, 1), *kernels);
                    Random random(seed + 100);
                    const Cache cache(model.layers, model.kv_heads, model.head_dim, 7, type);
                    std::vector<Exact<int32_t>> tables;
                    for (int i = 0; i < 3; ++i) {
                        tables.emplace_back(2);
                        tables[i][0] = 6 - i;
                        tables[i][1] = i;
                    }
                    std::vector<int> pasts(3, 0);
                    std::vector<float> all;
                    for (int round = 0; round < 3; ++round) {
                        std::vector<std::vector<int32_t>> tokens(3);
                        for (auto& part : tokens) {
                            part.resize(round == 0 ? random.between(1, 40) : random.between(1, 3));
                            for (int32_t& token : part) token = random.below(model.vocabulary);
                        }
                        if (threads > 0) {
                            const std::vector<float> rows = model.step(cache, tables, pasts, tokens);
                            all.insert(all.end(), rows.begin(), rows.end());
                        } else {
                            for (int i = 0; i < 3; ++i) {
                                std::vector<Exact<int32_t>> table;
                                table.emplace_back(2);
                                std::copy(tables[i].begin(), tables[i].end(), table[0].begin());
                                const std::vector<float> rows = model.step(cache, table, {pasts[i]}, {tokens[i]});
                                all.insert(all.end(), rows.begin(), rows.end());
                            }
                        }
                        for (int i = 0; i < 3; ++i) pasts[i] += static_cast<int>(tokens[i].size());
                    }
                    for (float value : all)
                        check(std::isfinite(value), "%s program %d: a logit is not finite", kernels->name,
                              static_cast<int>(seed));
                    if (first.empty())
                        first = all;
                    else
                        check(first == all, "%s program %d differs with %d threads (0: alone)", kernels->name,
                              static_cast<int>(seed), threads);
                }
            }
}

void test_memory() {
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{5000}, (size_t{8} << 20) + 1, size_t{20} << 20}) {
        Memory memory(bytes), other;
        check(memory.bytes() == bytes, "memory has another size");
        if (bytes) {
            check(reinterpret_cast<uintptr_t>(memory.data()) % 64 == 0, "memory is not aligned");
            check(memory.data()[0] == 0 && memory.data()[bytes - 1] == 0, "memory is not zero");
            memory.data()[bytes - 1] = 1;
        }
        other = std::move(memory);
        Memory third(std::move(other));
        check(third.bytes() == bytes && (!bytes || third.data()[bytes - 1] == 1), "memory does not move");
    }
    Arena arena;
    std::vector<uint8_t*> parts;
    for (int i = 0; i < 50; ++i) {
        parts.push_back(arena.take(static_cast<size_t>(i) * 100000 + 1));
        std::memset(parts.back(), i + 1, static_cast<size_t>(i) * 100000 + 1);
    }
    for (int i = 0; i < 50; ++i)
        check(*parts[i] == i + 1 && parts[i][i * 100000] == i + 1, "parts of an arena overlap");
}

}  // namespace
}  // namespace localllm

int main(int count, char** names) {
    using namespace localllm;
    const std::pair<const char*, void (*)()> parts[] = {{"half", test_half},
                                                        {"linear", test_linear},
                                                        {"elementwise", test_elementwise},
                                                        {"not_finite", test_not_finite},
                                                        {"attention", test_attention},
                                                        {"threads", test_threads},
                                                        {"memory", test_memory},
                                                        {"programs", test_programs}};
    for (const auto& [name, run] : parts) {
        bool wanted = count == 1;
        for (int i = 1; i < count; ++i) wanted |= std::string(names[i]) == name;
        if (!wanted) continue;
        const int before = passed;
        run();
        std::printf("%s: %d passed\n", name, passed - before);
        std::fflush(stdout);
    }
    std::printf("%d passed\n", passed);
    return 0;
}
