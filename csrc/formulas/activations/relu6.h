#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct Relu6 {
    static constexpr ActivationInfo info{"relu6", Saves::x, "min(max(x, 0), 6)",
                                         "Krizhevsky 2010; torch.nn.functional.relu6"};

    explicit SMELT_HD Relu6(const double*) {}

    SMELT_HD T forward(T x) const { return math::relu6(x); }
    SMELT_HD T backward(T dy, T x) const { return (x <= 0) | (x >= 6) ? T(0) : dy; }
};

}  // namespace SMELT_ISA
}  // namespace smelt
