#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Elu {
    static constexpr ActivationInfo info{"elu",
                                         Saves::y,
                                         "x if x > 0 else alpha * expm1(x)",
                                         "Clevert, Unterthiner and Hochreiter 2016; torch.nn.functional.elu",
                                         {{"alpha", 1.0, at_least_zero}}};

    T alpha;

    explicit SMELT_HD Elu(const double* p) : alpha(T(p[0])) {}

    SMELT_HD T forward(T x) const { return x > 0 ? x : alpha * math::expm1(x); }
    SMELT_HD T backward(T dy, T y) const { return y > 0 ? dy : dy * (y + alpha); }
};

}  // namespace SMELT_ISA
}  // namespace smelt
