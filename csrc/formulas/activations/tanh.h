#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Tanh {
    static constexpr ActivationInfo info{"tanh", Saves::y, "tanh(x)", "torch.tanh"};

    explicit SMELT_HD Tanh(const double*) {}

    SMELT_HD T forward(T x) const { return math::tanh(x); }
    SMELT_HD T backward(T dy, T y) const { return dy * math::fma(-y, y, T(1)); }
};

}  // namespace SMELT_ISA
}  // namespace smelt
