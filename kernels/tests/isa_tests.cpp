#include <algorithm>
#include <cmath>
#include <limits>

#include "isa/kernels.h"
#include "tests/testing.h"

namespace localllm {

namespace {

double activated(double x, Activation kind) {
    if (kind == Activation::silu) return x / (1 + std::exp(-x));
    if (kind == Activation::gelu_erf) return 0.5 * x * std::erfc(-x * 0.7071067811865476);
    return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

// Of rows far from zero, too: the mean is taken away before the squares are summed.
void check_layer_norm(const Kernels& kernels, const Exact<float>& a, const Exact<float>& weight, int n) {
    for (float shift : {0.0f, 100.0f}) {
        Exact<float> x(n), bias(n), out(n);
        double mean = 0, spread = 0;
        for (int i = 0; i < n; ++i) {
            x[i] = a[i] + shift;
            bias[i] = a[n - 1 - i];
            mean += static_cast<double>(x[i]) / n;
        }
        for (float value : x) spread += (value - mean) * (value - mean) / n;
        kernels.layer_norm(x.data(), weight.data(), bias.data(), out.data(), n, 1e-5f);
        for (int i = 0; i < n; ++i) {
            const double normed = (x[i] - mean) / std::sqrt(spread + 1e-5) * static_cast<double>(weight[i]);
            const double error =
                (shift > 0 ? 1e-4 : 3e-6) * (1 + std::fabs(normed) + std::fabs(static_cast<double>(bias[i])));
            check(std::fabs(out[i] - normed - static_cast<double>(bias[i])) <= error, "%s layer norm of %d",
                  kernels.name, n);
        }
    }
}

}  // namespace

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
            check_layer_norm(*kernels, a, b, n);
            for (Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_erf}) {
                Exact<float> alone(n);
                kernels->act(a.data(), alone.data(), n, kind);
                kernels->gated_act(a.data(), b.data(), out.data(), n, kind);
                for (int i = 0; i < n; ++i) {
                    const double x = a[i], wanted = activated(x, kind), error = 1e-6 * std::fabs(x) + 1e-30;
                    check(std::fabs(alone[i] - wanted) <= error, "%s activation of %d", kernels->name, n);
                    check(std::fabs(out[i] - wanted * b[i]) <= error * std::fabs(b[i]) + 1e-30,
                          "%s gated activation of %d", kernels->name, n);
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

// Every set converts halves as the scalar functions do: to the bit, but for the payload of NaN.
void test_conversions() {
    constexpr int n = 64, halves = 65536;
    Random random(3);
    for (const Kernels* kernels : available_kernels()) {
        for (Type type : {Type::F16, Type::BF16}) {
            if (kernels->pairs(type)) continue;  // multiplied as it is
            for (int start = 0; start < halves; start += kPanelRows) {
                Exact<uint16_t> panel(kPanelRows);
                for (int i = 0; i < kPanelRows; ++i) panel[i] = static_cast<uint16_t>(start + i);
                const float one = 1;
                Exact<float> y(kPanelRows);
                kernels->floating[static_cast<int>(type)][0](reinterpret_cast<const uint8_t*>(panel.data()), 1, &one,
                                                             y.data());
                for (int i = 0; i < kPanelRows; ++i) {
                    const float wanted = type == Type::F16 ? half_to_float(panel[i]) : bfloat_to_float(panel[i]);
                    check(y[i] == wanted || (std::isnan(y[i]) && std::isnan(wanted)), "%s reads %s %04x as %g",
                          kernels->name, format(type).name, panel[i], static_cast<double>(y[i]));
                }
            }
        }
        const Cache cache(1, 1, n, 1, CacheType::f16);
        const auto* keys = reinterpret_cast<const uint16_t*>(cache.keys(0, 0, 0));
        const auto* values = reinterpret_cast<const uint16_t*>(cache.values(0, 0, 0));
        for (int round = 0; round < 2000; ++round) {
            Exact<float> x(n);
            for (float& value : x) {  // near and between two halves, subnormal and too large ones among them
                const uint16_t bits = static_cast<uint16_t>(random.below(0x7c00));
                const float low = half_to_float(bits), high = bits == 0x7bff ? 7e4f : half_to_float(bits + 1);
                value = low + (high - low) * random.pick<float>({0.0f, 0.25f, 0.5f, 0.5001f, 0.75f});
                if (random.below(2)) value = -value;
            }
            kernels->store_token[static_cast<int>(CacheType::f16)](n, cache.keys(0, 0, 0), cache.values(0, 0, 0), 3,
                                                                   x.data(), x.data());
            for (int i = 0; i < n; ++i) {
                const uint16_t wanted = float_to_half(std::clamp(x[i], -65504.0f, 65504.0f));
                check(keys[i * kPageTokens + 3] == wanted && values[3 * n + i] == wanted,
                      "%s stores %g as %04x and %04x", kernels->name, static_cast<double>(x[i]),
                      keys[i * kPageTokens + 3], values[3 * n + i]);
            }
        }
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
                for (CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8}) {
                    const Cache cache(1, 1, n, 1, type);
                    const int kind = static_cast<int>(type);
                    for (int slot = 0; slot < 3; ++slot)
                        kernels->store_token[kind](n, cache.keys(0, 0, 0), cache.values(0, 0, 0), slot, x.data(),
                                                   x.data());
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
                    check(!std::isnan(bad) || std::isnan(out[n - 1]), "%s attention hides NaN", kernels->name);
                }
                kernels->rms_norm(x.data(), x.data(), x.data(), n, 1e-6f);
                kernels->layer_norm(x.data(), x.data(), x.data(), x.data(), n, 1e-6f);
                kernels->act(x.data(), x.data(), n, Activation::gelu_erf);
                kernels->gated_act(x.data(), x.data(), x.data(), n, Activation::gelu);
                kernels->gated_act(x.data(), x.data(), x.data(), n, Activation::silu);
                kernels->softcap(x.data(), n, 5.0f);
                check(!std::isnan(bad) || std::isnan(x[37]), "%s cap hides NaN", kernels->name);
            }
        }
}

}  // namespace localllm
