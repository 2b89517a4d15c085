// Reductions of a run: 64 partial results side by side, as registers hold them, then a tree. The order depends on the
// length alone, so that every instruction set and any number of threads find the same bits.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace smelt {
inline namespace SMELT_ISA {

constexpr std::int64_t lanes = 64;

// start combined with f(0), ..., f(n - 1) by `combine`, of which `start` is the neutral element.
template <class R, class F, class Combine>
inline R reduce(std::int64_t n, R start, const F& f, const Combine& combine) {
    R partial[lanes];
    for (R& p : partial) p = start;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (std::int64_t l = 0; l < lanes; ++l) partial[l] = combine(partial[l], R(f(i + l)));
    }
#pragma omp simd
    for (std::int64_t l = 0; l < n - i; ++l) partial[l] = combine(partial[l], R(f(i + l)));
    for (std::int64_t half = lanes / 2; half > 0; half /= 2) {
#pragma omp simd
        for (std::int64_t l = 0; l < half; ++l) partial[l] = combine(partial[l], partial[half + l]);
    }
    return partial[0];
}

template <class R = double, class F>
inline R sum(std::int64_t n, const F& f) {
    return reduce(n, R(0), f, [](R a, R b) { return a + b; });
}

template <class R, class F>
inline R maximum(std::int64_t n, R least, const F& f) {
    return reduce(n, least, f, [](R a, R b) { return b > a ? b : a; });
}

}  // namespace SMELT_ISA
}  // namespace smelt
