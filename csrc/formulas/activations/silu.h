#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Silu {
    static constexpr ActivationInfo info{"silu",
                                         Saves::x,
                                         "x * sigmoid(beta * x)",
                                         "Ramachandran, Zoph and Le 2017 (swish); torch.nn.functional.silu",
                                         {{"beta", 1.0, finite}}};

    T beta;

    explicit SMELT_HD Silu(const double* p) : beta(T(p[0])) {}

    // At an infinity the product would be inf * 0: its limit is taken instead.
    SMELT_HD T forward(T x) const {
        const T z = beta * x;
        return z == -math::inf<T> ? T(0) : x * math::sigmoid(z);
    }
    SMELT_HD T backward(T dy, T x) const {
        const T z = beta * x, s = math::sigmoid(z);
        return dy * (math::abs(z) == math::inf<T> ? s : s * math::fma(z, 1 - s, T(1)));
    }
};

}  // namespace SMELT_ISA
}  // namespace smelt
