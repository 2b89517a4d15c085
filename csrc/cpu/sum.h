// Sums in double, along four independent chains of vectors: their order depends on the length alone.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class Sum = double, class F>
inline Sum sum(std::int64_t n, const F& f) {
    const std::int64_t q = n / 4;
    Sum s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (std::int64_t i = 0; i < q; ++i) {
        s0 += Sum(f(i));
        s1 += Sum(f(q + i));
        s2 += Sum(f(2 * q + i));
        s3 += Sum(f(3 * q + i));
    }
    for (std::int64_t i = 4 * q; i < n; ++i) s0 += Sum(f(i));
    return (s0 + s1) + (s2 + s3);
}

}  // namespace SMELT_ISA
}  // namespace smelt
