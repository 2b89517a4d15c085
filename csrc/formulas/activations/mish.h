#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Mish {
    static constexpr FormulaInfo info{"mish", Saves::x, "x * tanh(softplus(x))",
                                      "Misra 2019; torch.nn.functional.mish"};

    explicit GRADFUSE_HD Mish(const double*) {}

    // With e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2); for x >= 20 it is 1.
    GRADFUSE_HD T forward(T x) const {
        const T e = math::exp(math::min(x, T(20))), n = e * (e + 2);
        return x == -math::inf<T> ? T(0) : x * (n / (n + 2));
    }
    GRADFUSE_HD T backward(T dy, T x) const {
        const T z = math::min(x, T(20)), e = math::exp(z), n = e * (e + 2), d = 1 / (n + 2);
        const T derivative = math::fma(4 * e * z, (1 + e) * d * d, n * d);
        return dy * (x == -math::inf<T> ? T(0) : derivative);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
