#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Relu {
    static constexpr FormulaInfo info{"relu", Saves::y, "max(x, 0)", "Nair and Hinton 2010; torch.relu"};

    explicit GRADFUSE_HD Relu(const double*) {}

    // The condition selects the negative side, so that a NaN and its gradient pass through.
    GRADFUSE_HD T forward(T x) const { return x < 0 ? T(0) : x; }
    // The second comparison changes nothing. Without it GCC makes a conditional load of dy that waits for y.
    GRADFUSE_HD T backward(T dy, T y) const { return (y <= 0) | (y == -math::inf<T>) ? T(0) : dy; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
