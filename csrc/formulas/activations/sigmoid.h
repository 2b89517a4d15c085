#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Sigmoid {
    static constexpr FormulaInfo info{"sigmoid", Saves::y, "1 / (1 + exp(-x))", "torch.sigmoid"};

    explicit GRADFUSE_HD Sigmoid(const double*) {}

    GRADFUSE_HD T forward(T x) const { return math::sigmoid(x); }
    GRADFUSE_HD T backward(T dy, T y) const { return dy * (y * (1 - y)); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
