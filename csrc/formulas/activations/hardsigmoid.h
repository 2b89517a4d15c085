#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Hardsigmoid {
    static constexpr FormulaInfo info{"hardsigmoid", Saves::x, "min(max(x + 3, 0), 6) / 6",
                                      "Courbariaux, Bengio and David 2015; torch.nn.functional.hardsigmoid"};

    explicit GRADFUSE_HD Hardsigmoid(const double*) {}

    GRADFUSE_HD T forward(T x) const { return math::relu6(x + 3) * T(1.0 / 6); }
    GRADFUSE_HD T backward(T dy, T x) const { return math::keep_if((x > -3) & (x < 3), dy * T(1.0 / 6)); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
