#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Silu {
    static constexpr FormulaInfo info{"silu",
                                      Saves::x,
                                      "x * sigmoid(beta * x)",
                                      "Ramachandran, Zoph and Le 2017 (swish); torch.nn.functional.silu",
                                      {{"beta", 1.0, finite}}};

    T beta;

    explicit GRADFUSE_HD Silu(const double* p) : beta(T(p[0])) {}

    // At an infinity the product would be inf * 0: the limit is used instead.
    GRADFUSE_HD T forward(T x) const {
        const T z = beta * x;
        return z == -math::inf<T> ? T(0) : x * math::sigmoid(z);
    }
    GRADFUSE_HD T backward(T dy, T x) const {
        const T z = beta * x, s = math::sigmoid(z);
        return dy * (math::abs(z) == math::inf<T> ? s : s * math::fma(z, 1 - s, T(1)));
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
