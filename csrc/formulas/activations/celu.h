#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Celu {
    static constexpr FormulaInfo info{"celu",
                                      Saves::x,
                                      "max(x, 0) + min(alpha * expm1(x / alpha), 0)",
                                      "Barron 2017; torch.nn.functional.celu",
                                      {{"alpha", 1.0, above_zero}}};

    T alpha, inv_alpha;

    explicit GRADFUSE_HD Celu(const double* p) : alpha(T(p[0])), inv_alpha(T(1 / p[0])) {}

    GRADFUSE_HD T forward(T x) const { return x > 0 ? x : alpha * math::expm1(x * inv_alpha); }
    GRADFUSE_HD T backward(T dy, T x) const { return x > 0 ? dy : dy * math::exp_nonpositive(x * inv_alpha); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
