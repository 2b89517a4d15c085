// Reductions of a run: as many partial results as fit in registers, joined in a tree. The order depends only on the
// length, so every instruction set and every number of threads give the same bits.
#pragma once

#include <cstdint>

#include "core/config.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Each lane begins with `start`, the neutral element of `combine`, and applies partial = add(partial, i) to its i of
// [0, n) in order. Then the lanes are combined.
template <class R, class Add, class Combine>
inline R reduce(std::int64_t n, R start, const Add& add, const Combine& combine) {
    constexpr std::int64_t lanes = 256 / sizeof(R);
    R partial[lanes];
    for (R& p : partial) p = start;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (std::int64_t l = 0; l < lanes; ++l) partial[l] = add(partial[l], i + l);
    }
#pragma omp simd
    for (std::int64_t l = 0; l < n - i; ++l) partial[l] = add(partial[l], i + l);
#pragma GCC unroll 8
    for (std::int64_t half = lanes / 2; half > 0; half /= 2) {
#pragma omp simd
        for (std::int64_t l = 0; l < half; ++l) partial[l] = combine(partial[l], partial[half + l]);
    }
    return partial[0];
}

template <class R = double, class F>
inline R sum(std::int64_t n, const F& f) {
    return reduce(n, R(0), [&](R p, std::int64_t i) { return p + R(f(i)); }, [](R a, R b) { return a + b; });
}

// The sum of many numbers: the sum of the two halves, recursively down to short ranges.
inline double sum_of_many(const double* x, std::int64_t n) {
    constexpr std::int64_t stretch = 2048;
    if (n <= stretch) return sum(n, [&](std::int64_t i) { return x[i]; });
    const std::int64_t half = (n / stretch + 1) / 2 * stretch;
    return sum_of_many(x, half) + sum_of_many(x + half, n - half);
}

// The sum of f(i)^2, in double. Squares of floats are exact in double, so a fused multiply-add gives the same bits.
template <class F>
inline double sum_of_squares(std::int64_t n, const F& f) {
    const auto add = [&](double p, std::int64_t i) {
        const auto x = f(i);
        if constexpr (sizeof x == sizeof(float)) {
            return math::fma(double(x), double(x), p);
        } else {
            return p + x * x;
        }
    };
    return reduce(n, 0.0, add, [](double a, double b) { return a + b; });
}

template <class R, class F>
inline R maximum(std::int64_t n, R least, const F& f) {
    const auto larger = [](R a, R b) { return b > a ? b : a; };
    return reduce(n, least, [&](R p, std::int64_t i) { return larger(p, f(i)); }, larger);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
