#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Adam : Optimizer {
    static constexpr OptimizerInfo info{
        "Adam",
        "m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2 (amsgrad: its maximum); "
        "p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)",
        "Kingma and Ba 2015, amsgrad: Reddi, Kale and Kumar 2018; torch.optim.Adam",
        {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        {{"lr", Kind::number, 1e-3, 0, at_least_zero},
         {"betas", Kind::pair, 0.9, 0.999, below_one},
         {"eps", Kind::number, 1e-8, 0, at_least_zero},
         {"weight_decay", Kind::number, 0, 0, at_least_zero},
         {"amsgrad", Kind::flag}}};
    enum { lr, beta1, beta2, eps, weight_decay, amsgrad };
    using Slots = SlotSets<3, 7>;
    static GRADFUSE_HD unsigned slots(const double* h) { return h[amsgrad] ? 7 : 3; }

    T rate, rest1, b2, rest2, scale, epsilon;

    GRADFUSE_HD Adam(const double* h, const Clock& clock)
        : rate(T(h[lr] / (1 - std::pow(h[beta1], double(clock.t))))),
          rest1(T(1 - h[beta1])),
          b2(T(h[beta2])),
          rest2(T(1 - h[beta2])),
          scale(T(1 / std::sqrt(1 - std::pow(h[beta2], double(clock.t))))),
          epsilon(T(h[eps])) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        const T m = state[0] = average(state[0], rest1, g);
        T v = state[1] = math::fma(b2, state[1], rest2 * g * g);
        if constexpr (S == 7) v = state[2] = math::max_or_nan(state[2], v);
        p -= rate * m / math::fma(math::sqrt(v), scale, epsilon);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
