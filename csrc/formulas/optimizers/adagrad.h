#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Adagrad : Optimizer {
    static constexpr OptimizerInfo info{"Adagrad",
                                        "s += g^2; p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)",
                                        "Duchi, Hazan and Singer 2011; torch.optim.Adagrad",
                                        {"sum"},
                                        {{"lr", Kind::number, 1e-2, 0, at_least_zero},
                                         {"lr_decay", Kind::number, 0, 0, at_least_zero},
                                         {"weight_decay", Kind::number, 0, 0, at_least_zero},
                                         {"initial_accumulator_value", Kind::number, 0, 0, at_least_zero},
                                         {"eps", Kind::number, 1e-10, 0, at_least_zero}},
                                        false,
                                        "initial_accumulator_value"};
    enum { lr, lr_decay, weight_decay, initial_accumulator_value, eps };
    using Slots = SlotSets<1>;
    static GRADFUSE_HD unsigned slots(const double*) { return 1; }

    T rate, epsilon;

    GRADFUSE_HD Adagrad(const double* h, const Clock& clock)
        : rate(T(h[lr] / (1 + double(clock.t - 1) * h[lr_decay]))), epsilon(T(h[eps])) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        const T s = math::fma(g, g, state[0]);
        p -= rate * g / (math::sqrt(s) + epsilon);
        state[0] = s;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
