#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Celu {
    static constexpr ActivationInfo info{"celu",
                                         Saves::y,
                                         "max(x, 0) + min(alpha * expm1(x / alpha), 0)",
                                         "Barron 2017; torch.nn.functional.celu",
                                         {{"alpha", 1.0, above_zero}}};

    T alpha, inv_alpha;

    explicit SMELT_HD Celu(const double* p) : alpha(T(p[0])), inv_alpha(T(1 / p[0])) {}

    SMELT_HD T forward(T x) const { return x > 0 ? x : alpha * math::expm1(x * inv_alpha); }
    SMELT_HD T backward(T dy, T y) const { return y > 0 ? dy : dy * math::fma(y, inv_alpha, T(1)); }
};

}  // namespace SMELT_ISA
}  // namespace smelt
