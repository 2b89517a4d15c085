#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Selu {
    static constexpr FormulaInfo info{"selu", Saves::x,
                                      "1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))",
                                      "Klambauer, Unterthiner, Mayr and Hochreiter 2017; torch.selu"};

    explicit GRADFUSE_HD Selu(const double*) {}

    static constexpr double lambda = 1.0507009873554804934193349852946;
    static constexpr double lambda_alpha = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717;

    GRADFUSE_HD T forward(T x) const { return x > 0 ? T(lambda) * x : T(lambda_alpha) * math::expm1(x); }
    GRADFUSE_HD T backward(T dy, T x) const {
        return dy * (x > 0 ? T(lambda) : T(lambda_alpha) * math::exp_nonpositive(x));
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
