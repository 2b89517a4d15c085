#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct NAdam : Optimizer {
    static constexpr OptimizerInfo info{
        "NAdam",
        "m, v as Adam; mu_t = b1 * (1 - 0.5 * 0.96^(t * momentum_decay)), P = mu_1 ... mu_t; "
        "p -= lr * ((1 - mu_t) / (1 - P) * g + mu_(t+1) / (1 - P * mu_(t+1)) * m) / (sqrt(v / (1 - b2^t)) + eps)",
        "Dozat 2016; torch.optim.NAdam",
        {"exp_avg", "exp_avg_sq"},
        {{"lr", Kind::number, 2e-3, 0, at_least_zero},
         {"betas", Kind::pair, 0.9, 0.999, below_one},
         {"eps", Kind::number, 1e-8, 0, at_least_zero},
         {"weight_decay", Kind::number, 0, 0, at_least_zero},
         {"momentum_decay", Kind::number, 4e-3, 0, at_least_zero}}};
    enum { lr, beta1, beta2, eps, weight_decay, momentum_decay };
    using Slots = SlotSets<3>;
    static GRADFUSE_HD unsigned slots(const double*) { return 3; }

    static GRADFUSE_HD double mu(const double* h, std::int64_t t) {
        return h[beta1] * (1 - 0.5 * std::pow(0.96, double(t) * h[momentum_decay]));
    }
    static GRADFUSE_HD void advance(const double* h, Clock& clock) { clock.momentum_product *= mu(h, clock.t); }

    T of_gradient, of_mean, rest1, b2, rest2, scale, epsilon;

    GRADFUSE_HD NAdam(const double* h, const Clock& clock)
        : of_gradient(T(h[lr] * (1 - mu(h, clock.t)) / (1 - clock.momentum_product))),
          of_mean(T(h[lr] * mu(h, clock.t + 1) / (1 - clock.momentum_product * mu(h, clock.t + 1)))),
          rest1(T(1 - h[beta1])),
          b2(T(h[beta2])),
          rest2(T(1 - h[beta2])),
          scale(T(1 / std::sqrt(1 - std::pow(h[beta2], double(clock.t))))),
          epsilon(T(h[eps])) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        const T m = state[0] = average(state[0], rest1, g);
        const T v = state[1] = math::fma(b2, state[1], rest2 * g * g);
        p -= math::fma(of_gradient, g, of_mean * m) / math::fma(math::sqrt(v), scale, epsilon);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
