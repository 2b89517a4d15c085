#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Relu6 {
    static constexpr FormulaInfo info{"relu6", Saves::x, "min(max(x, 0), 6)",
                                      "Krizhevsky 2010; torch.nn.functional.relu6"};

    explicit GRADFUSE_HD Relu6(const double*) {}

    GRADFUSE_HD T forward(T x) const { return math::relu6(x); }
    GRADFUSE_HD T backward(T dy, T x) const { return (x <= 0) | (x >= 6) ? T(0) : dy; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
