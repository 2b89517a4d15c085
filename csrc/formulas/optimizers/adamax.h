#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Adamax : Optimizer {
    static constexpr OptimizerInfo info{
        "Adamax",
        "m = b1 * m + (1 - b1) * g; u = max(b2 * u, abs(g) + eps); p -= lr / (1 - b1^t) * m / u",
        "Kingma and Ba 2015; torch.optim.Adamax",
        {"exp_avg", "exp_inf"},
        {{"lr", Kind::number, 2e-3, 0, at_least_zero},
         {"betas", Kind::pair, 0.9, 0.999, below_one},
         {"eps", Kind::number, 1e-8, 0, at_least_zero},
         {"weight_decay", Kind::number, 0, 0, at_least_zero}}};
    enum { lr, beta1, beta2, eps, weight_decay };
    using Slots = SlotSets<3>;
    static GRADFUSE_HD unsigned slots(const double*) { return 3; }

    T rate, rest1, b2, epsilon;

    GRADFUSE_HD Adamax(const double* h, const Clock& clock)
        : rate(T(h[lr] / (1 - std::pow(h[beta1], double(clock.t))))),
          rest1(T(1 - h[beta1])),
          b2(T(h[beta2])),
          epsilon(T(h[eps])) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        const T m = state[0] = average(state[0], rest1, g);
        const T u = state[1] = math::max_or_nan(b2 * state[1], math::abs(g) + epsilon);
        p -= rate * m / u;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
