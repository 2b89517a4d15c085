#pragma once

#include "formulas/optimizers/adam.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct AdamW : Adam<T> {
    static constexpr OptimizerInfo info{"AdamW",
                                        "p *= 1 - lr * weight_decay, then as Adam",
                                        "Loshchilov and Hutter 2019; torch.optim.AdamW",
                                        {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
                                        {{"lr", Kind::number, 1e-3, 0, at_least_zero},
                                         {"betas", Kind::pair, 0.9, 0.999, below_one},
                                         {"eps", Kind::number, 1e-8, 0, at_least_zero},
                                         {"weight_decay", Kind::number, 1e-2, 0, at_least_zero},
                                         {"amsgrad", Kind::flag}},
                                        true};

    using Adam<T>::Adam;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
