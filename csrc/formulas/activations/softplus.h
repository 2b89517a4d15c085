#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Softplus {
    static constexpr FormulaInfo info{"softplus",
                                      Saves::x,
                                      "log1p(exp(beta * x)) / beta, or x where beta * x > threshold",
                                      "Dugas et al. 2001; torch.nn.functional.softplus",
                                      {{"beta", 1.0, above_zero}, {"threshold", 20.0, finite}}};

    T beta, threshold, inv_beta;

    explicit GRADFUSE_HD Softplus(const double* p) : beta(T(p[0])), threshold(T(p[1])), inv_beta(T(1 / p[0])) {}

    GRADFUSE_HD T forward(T x) const {
        const T z = beta * x;
        const T soft = (math::max(z, T(0)) + math::log1p_unit(math::exp_nonpositive(-math::abs(z)))) * inv_beta;
        return z > threshold ? x : soft;
    }
    // From x, not y: with a low threshold both branches have some values of y in common, but with other derivatives.
    GRADFUSE_HD T backward(T dy, T x) const {
        const T z = beta * x;
        return z > threshold ? dy : dy * math::sigmoid(z);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
