#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct LogSigmoid {
    static constexpr ActivationInfo info{"logsigmoid", Saves::x, "-log1p(exp(-x))", "torch.nn.functional.logsigmoid"};

    explicit SMELT_HD LogSigmoid(const double*) {}

    SMELT_HD T forward(T x) const { return math::min(x, T(0)) - math::log1p_unit(math::exp(-math::abs(x))); }
    SMELT_HD T backward(T dy, T x) const { return dy * math::sigmoid(-x); }
};

}  // namespace SMELT_ISA
}  // namespace smelt
