// Fits of one group of values, a lane for each row: codes are whole numbers, and scale * code, or scale * code + low,
// shall come near the values, each error's square counting by its weight.
//
// For given codes q the best scale is a linear regression, in closed form: without a minimum sum(wxq) / sum(wqq), which
// leaves an error of sum(wxx) - sum(wxq)^2 / sum(wqq); with one it solves two equations. Which codes are best depends
// on the scale in turn, so some scales around the obvious one are tried for rounding, and the codes that leave the
// least error kept. Products and sums are in a fixed order (see strip.h).
#pragma once

#include "quant/strip.h"

namespace localllm {

// sum(wxq) and sum(wqq) of the codes that rounding by `inverse` gives.
template <class V>
struct Products {
    typename V::F xq = V::zero(), qq = V::zero();
    void add(typename V::F w, typename V::F x, typename V::F q) {
        xq = V::add(xq, V::mul(V::mul(w, x), q));
        qq = V::add(qq, V::mul(V::mul(w, q), q));
    }
    typename V::F ratio() const {
        return V::div(V::select(V::less(V::zero(), qq), xq, V::zero()),
                      V::select(V::less(V::zero(), qq), qq, V::set1(1.0f)));
    }
    // Whether these codes leave less error than others with this scale times sum(wxq).
    typename V::M better_than(typename V::F best) const {
        return V::both(V::less(V::zero(), qq), V::less(V::mul(best, qq), V::mul(xq, xq)));
    }
};

// Codes in [-half, half) for values about zero, stored + half: the value of the largest magnitude takes -half, or about
// that. Returns the scale. A group of nothing but zeros has codes and scale 0.
template <class V>
typename V::F fit_scale(const float (*x)[V::lanes], const float (*w)[V::lanes], int n, float half,
                        float (*code)[V::lanes]) {
    const auto top = extreme<V>(x, n);
    const auto nothing = V::less(V::abs(top), V::set1(kNothing));
    const auto peak = V::select(nothing, V::set1(1.0f), top);
    auto products = [&](typename V::F inverse) {
        Products<V> sums;
        for (int i = 0; i < n; ++i) {
            const auto v = V::load(x[i]);
            sums.add(V::load(w[i]), v, nearest<V>(V::mul(inverse, v), -half, half - 1));
        }
        return sums;
    };
    auto inverse = V::div(V::set1(-half), peak);
    const Products<V> first = products(inverse);
    auto scale = first.ratio(), best = V::mul(scale, first.xq);
    for (int step = -9; step <= 9; ++step) {
        if (step == 0) continue;
        const auto tried = V::div(V::set1(-(half + 0.1f * static_cast<float>(step))), peak);
        const Products<V> sums = products(tried);
        const auto better = sums.better_than(best), ratio = sums.ratio();
        scale = V::select(better, ratio, scale);
        best = V::select(better, V::mul(ratio, sums.xq), best);
        inverse = V::select(better, tried, inverse);
    }
    for (int i = 0; i < n; ++i) {
        const auto q = nearest<V>(V::mul(inverse, V::load(x[i])), -half, half - 1);
        V::store(code[i], V::select(nothing, V::zero(), V::add(q, V::set1(half))));
    }
    return V::select(nothing, V::zero(), scale);
}

// One code after the other moves to where it is best while all others stay, as long as that lowers the error.
// `sums` are those of the codes q.
template <class V>
void descend(const float (*x)[V::lanes], const float (*w)[V::lanes], int n, float low, float high, Products<V>& sums,
             float (*q)[V::lanes]) {
    for (int round = 0; round < 5; ++round) {
        bool changed = false;
        for (int i = 0; i < n; ++i) {
            const auto v = V::load(x[i]), weight = V::load(w[i]), old = V::load(q[i]), wx = V::mul(weight, v);
            Products<V> rest;
            rest.xq = V::sub(sums.xq, V::mul(wx, old));
            rest.qq = V::sub(sums.qq, V::mul(V::mul(weight, old), old));
            const auto possible = V::less(V::zero(), rest.xq);
            const auto divisor = V::select(possible, rest.xq, V::set1(1.0f));
            const auto fresh = nearest<V>(V::div(V::mul(v, rest.qq), divisor), low, high);
            rest.add(weight, v, fresh);
            const auto differs = V::less(V::zero(), V::abs(V::sub(fresh, old)));
            const auto lower =
                V::less(V::mul(V::mul(sums.xq, sums.xq), rest.qq), V::mul(V::mul(rest.xq, rest.xq), sums.qq));
            const auto move = V::both(V::both(possible, V::less(V::zero(), rest.qq)), V::both(differs, lower));
            if (!V::any(move)) continue;
            changed = true;
            V::store(q[i], V::select(move, fresh, old));
            sums.xq = V::select(move, rest.xq, sums.xq);
            sums.qq = V::select(move, rest.qq, sums.qq);
        }
        if (!changed) break;
    }
}

// As fit_scale, by descent from the obvious scale; the weights are the values' squares.
template <class V>
typename V::F fit_scale_by_descent(const float (*x)[V::lanes], const float (*w)[V::lanes], int n, float half,
                                   float (*code)[V::lanes]) {
    const auto top = extreme<V>(x, n);
    const auto nothing = V::less(V::abs(top), V::set1(kNothing));
    const auto inverse = V::div(V::set1(-half), V::select(nothing, V::set1(1.0f), top));
    Products<V> sums;
    for (int i = 0; i < n; ++i) {
        const auto v = V::load(x[i]), q = nearest<V>(V::mul(inverse, v), -half, half - 1);
        V::store(code[i], q);
        sums.add(V::load(w[i]), v, q);
    }
    descend<V>(x, w, n, -half, half - 1, sums, code);
    for (int i = 0; i < n; ++i)
        V::store(code[i], V::select(nothing, V::zero(), V::add(V::load(code[i]), V::set1(half))));
    return V::select(nothing, V::zero(), sums.ratio());
}

// Codes in [0, top] for values that are not negative: scales and minima, which are themselves quantised.
template <class V>
typename V::F fit_positive(const float (*x)[V::lanes], const float (*w)[V::lanes], int n, float top,
                           float (*code)[V::lanes]) {
    auto most = V::zero();
    for (int i = 0; i < n; ++i) most = V::max(most, V::load(x[i]));
    const auto nothing = V::less(most, V::set1(kNothing));
    const auto peak = V::select(nothing, V::set1(1.0f), most);
    auto error = [&](typename V::F inverse) {
        const auto scale = V::div(V::set1(1.0f), inverse);
        auto sum = V::zero();
        for (int i = 0; i < n; ++i) {
            const auto v = V::load(x[i]);
            const auto off = V::sub(v, V::mul(scale, nearest<V>(V::mul(inverse, v), 0, top)));
            sum = V::add(sum, V::mul(V::mul(V::load(w[i]), off), off));
        }
        return sum;
    };
    auto inverse = V::div(V::set1(top), peak), best = error(inverse);
    for (int step = -4; step <= 4; ++step) {
        if (step == 0) continue;
        const auto tried = V::div(V::set1(0.1f * static_cast<float>(step) + top), peak), left = error(tried);
        const auto better = V::less(left, best);
        best = V::select(better, left, best);
        inverse = V::select(better, tried, inverse);
    }
    Products<V> sums;
    for (int i = 0; i < n; ++i) {
        const auto v = V::load(x[i]), q = V::select(nothing, V::zero(), nearest<V>(V::mul(inverse, v), 0, top));
        V::store(code[i], q);
        sums.add(V::load(w[i]), v, q);
    }
    descend<V>(x, w, n, 0, top, sums, code);
    return V::select(nothing, V::zero(), sums.ratio());
}

// What fit_range tries: codes in [0, top], rounded by (first + step * i + top) / (highest - low), i = 0 ... steps, low
// being the best so far.
struct RangeSearch {
    float top, first, step;
    int steps;
    bool absolute = false;  // weigh the errors themselves, not their squares
};

template <class V>
struct Range {
    typename V::F scale, low;  // low <= 0
};

// Values as low + scale * code. With sums S of w, wx, wq, wqq, wxq the best of both for given codes are
// scale = (S_w S_xq - S_x S_q) / D and low = (S_qq S_x - S_q S_xq) / D, where D = S_w S_qq - S_q^2. A low above 0
// cannot be stored: it stays 0, and the scale is fitted alone.
template <class V>
Range<V> fit_range(const float (*x)[V::lanes], const float (*w)[V::lanes], int n, const RangeSearch& search,
                   float (*code)[V::lanes]) {
    auto least = V::load(x[0]), most = least, sum_w = V::load(w[0]), sum_x = V::mul(sum_w, least);
    for (int i = 1; i < n; ++i) {
        const auto v = V::load(x[i]), weight = V::load(w[i]);
        least = V::min(v, least);
        most = V::max(v, most);
        sum_w = V::add(sum_w, weight);
        sum_x = V::add(sum_x, V::mul(weight, v));
    }
    const auto lowest = V::select(V::less(V::zero(), least), V::zero(), least);
    const auto wide = V::less(lowest, most);
    // How values are rounded: from which low, by which inverse scale.
    const auto inverse_for = [&](float codes, typename V::F low) {
        return V::div(V::set1(codes), V::select(wide, V::sub(most, low), V::set1(1.0f)));
    };
    const auto code_of = [&](int i, typename V::F low, typename V::F inverse) {
        return nearest<V>(V::mul(inverse, V::sub(V::load(x[i]), low)), 0, search.top);
    };
    const auto error = [&](typename V::F scale, typename V::F low) {
        auto sum = V::zero();
        for (int i = 0; i < n; ++i) {
            const auto off = V::sub(V::add(V::mul(scale, V::load(code[i])), low), V::load(x[i]));
            sum = V::add(sum, V::mul(V::load(w[i]), search.absolute ? V::abs(off) : V::mul(off, off)));
        }
        return sum;
    };
    auto origin = lowest, inverse = inverse_for(search.top, lowest);
    Range<V> range{V::div(V::set1(1.0f), inverse), lowest};
    for (int i = 0; i < n; ++i) V::store(code[i], code_of(i, origin, inverse));
    auto best = error(range.scale, range.low);
    for (int step = 0; step <= search.steps; ++step) {
        const auto from = range.low;
        const auto tried = inverse_for(search.first + search.step * static_cast<float>(step) + search.top, from);
        auto sum_q = V::zero(), sum_qq = V::zero(), sum_xq = V::zero();
        for (int i = 0; i < n; ++i) {
            const auto q = code_of(i, from, tried), wq = V::mul(V::load(w[i]), q);
            V::store(code[i], q);
            sum_q = V::add(sum_q, wq);
            sum_qq = V::add(sum_qq, V::mul(wq, q));
            sum_xq = V::add(sum_xq, V::mul(wq, V::load(x[i])));
        }
        const auto d = V::sub(V::mul(sum_w, sum_qq), V::mul(sum_q, sum_q));
        const auto solvable = V::less(V::zero(), d);
        const auto divisor = V::select(solvable, d, V::set1(1.0f));
        auto scale = V::div(V::sub(V::mul(sum_w, sum_xq), V::mul(sum_x, sum_q)), divisor);
        auto low = V::div(V::sub(V::mul(sum_qq, sum_x), V::mul(sum_q, sum_xq)), divisor);
        const auto above = V::both(solvable, V::less(V::zero(), low));
        scale = V::select(above, V::div(sum_xq, V::select(above, sum_qq, V::set1(1.0f))), scale);
        low = V::select(above, V::zero(), low);
        const auto left = error(scale, low);
        const auto better = V::both(solvable, V::less(left, best));
        best = V::select(better, left, best);
        inverse = V::select(better, tried, inverse);
        origin = V::select(better, from, origin);
        range.scale = V::select(better, scale, range.scale);
        range.low = V::select(better, low, range.low);
    }
    for (int i = 0; i < n; ++i) V::store(code[i], code_of(i, origin, inverse));
    range.scale = V::select(wide, range.scale, V::zero());
    return range;
}

}  // namespace localllm
