#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct LogSigmoid {
    static constexpr FormulaInfo info{"logsigmoid", Saves::x, "-log1p(exp(-x))", "torch.nn.functional.logsigmoid"};

    explicit GRADFUSE_HD LogSigmoid(const double*) {}

    GRADFUSE_HD T forward(T x) const {
        return math::min(x, T(0)) - math::log1p_unit(math::exp_nonpositive(-math::abs(x)));
    }
    GRADFUSE_HD T backward(T dy, T x) const { return dy * math::sigmoid_of_minus(x); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
