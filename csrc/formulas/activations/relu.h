#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Relu {
    static constexpr ActivationInfo info{"relu", Saves::y, "max(x, 0)", "Nair and Hinton 2010; torch.relu"};

    explicit SMELT_HD Relu(const double*) {}

    // Written as selects on the negative side, so that NaN passes and so does its gradient.
    SMELT_HD T forward(T x) const { return x < 0 ? T(0) : x; }
    SMELT_HD T backward(T dy, T y) const { return y <= 0 ? T(0) : dy; }
};

}  // namespace SMELT_ISA
}  // namespace smelt
