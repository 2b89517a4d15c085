#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct LeakyRelu {
    static constexpr FormulaInfo info{"leaky_relu",
                                      Saves::y,
                                      "x if x > 0 else negative_slope * x",
                                      "Maas, Hannun and Ng 2013; torch.nn.functional.leaky_relu",
                                      {{"negative_slope", 0.01, at_least_zero}}};

    T negative_slope;

    explicit GRADFUSE_HD LeakyRelu(const double* p) : negative_slope(T(p[0])) {}

    GRADFUSE_HD T forward(T x) const { return x > 0 ? x : negative_slope * x; }
    GRADFUSE_HD T backward(T dy, T y) const { return y > 0 ? dy : negative_slope * dy; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
