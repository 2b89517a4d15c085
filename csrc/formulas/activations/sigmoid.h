#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Sigmoid {
    static constexpr ActivationInfo info{"sigmoid", Saves::y, "1 / (1 + exp(-x))", "torch.sigmoid"};

    explicit SMELT_HD Sigmoid(const double*) {}

    SMELT_HD T forward(T x) const { return math::sigmoid(x); }
    SMELT_HD T backward(T dy, T y) const { return dy * (y * (1 - y)); }
};

}  // namespace SMELT_ISA
}  // namespace smelt
