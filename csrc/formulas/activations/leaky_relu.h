#pragma once

#include "core/info.h"
#include "core/math.h"

namespace smelt {
inline namespace SMELT_ISA {

template <class T>
struct LeakyRelu {
    static constexpr ActivationInfo info{"leaky_relu",
                                         Saves::y,
                                         "x if x > 0 else negative_slope * x",
                                         "Maas, Hannun and Ng 2013; torch.nn.functional.leaky_relu",
                                         {{"negative_slope", 0.01, at_least_zero}}};

    T negative_slope;

    explicit SMELT_HD LeakyRelu(const double* p) : negative_slope(T(p[0])) {}

    SMELT_HD T forward(T x) const { return x > 0 ? x : negative_slope * x; }
    SMELT_HD T backward(T dy, T y) const { return y > 0 ? dy : negative_slope * dy; }
};

}  // namespace SMELT_ISA
}  // namespace smelt
