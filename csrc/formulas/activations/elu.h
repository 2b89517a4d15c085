#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Elu {
    static constexpr FormulaInfo info{"elu",
                                      Saves::x,
                                      "x if x > 0 else alpha * expm1(x)",
                                      "Clevert, Unterthiner and Hochreiter 2016; torch.nn.functional.elu",
                                      {{"alpha", 1.0, at_least_zero}}};

    T alpha;

    explicit GRADFUSE_HD Elu(const double* p) : alpha(T(p[0])) {}

    GRADFUSE_HD T forward(T x) const { return x > 0 ? x : alpha * math::expm1(x); }
    GRADFUSE_HD T backward(T dy, T x) const { return x > 0 ? dy : dy * (alpha * math::exp_nonpositive(x)); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
