#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Tanh {
    static constexpr FormulaInfo info{"tanh", Saves::y, "tanh(x)", "torch.tanh"};

    explicit GRADFUSE_HD Tanh(const double*) {}

    GRADFUSE_HD T forward(T x) const { return math::tanh(x); }
    GRADFUSE_HD T backward(T dy, T y) const { return dy * math::fma(-y, y, T(1)); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
