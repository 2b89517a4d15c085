#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct MseLoss {
    static constexpr FormulaInfo info{"mse_loss", Saves::x, "(pred - target)^2", "torch.nn.functional.mse_loss"};

    explicit GRADFUSE_HD MseLoss(const double*) {}

    GRADFUSE_HD T loss(T pred, T target) const { return (pred - target) * (pred - target); }
    GRADFUSE_HD T gradient(T pred, T target) const { return 2 * (pred - target); }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
