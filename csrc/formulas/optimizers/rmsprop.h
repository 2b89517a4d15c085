#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct RMSprop : Optimizer {
    static constexpr OptimizerInfo info{"RMSprop",
                                        "v = alpha * v + (1 - alpha) * g^2; centered: v - (mean of g)^2; b = momentum "
                                        "* b + g / (sqrt(v) + eps); p -= lr * b",
                                        "Tieleman and Hinton 2012, centered: Graves 2013; torch.optim.RMSprop",
                                        {"square_avg", "grad_avg", "momentum_buffer"},
                                        {{"lr", Kind::number, 1e-2, 0, at_least_zero},
                                         {"alpha", Kind::number, 0.99, 0, unit_interval},
                                         {"eps", Kind::number, 1e-8, 0, at_least_zero},
                                         {"weight_decay", Kind::number, 0, 0, at_least_zero},
                                         {"momentum", Kind::number, 0, 0, at_least_zero},
                                         {"centered", Kind::flag}}};
    enum { lr, alpha, eps, weight_decay, momentum, centered };
    enum : unsigned { square = 1, mean = 2, buffer = 4 };
    using Slots = SlotSets<square, square | mean, square | buffer, square | mean | buffer>;
    static GRADFUSE_HD unsigned slots(const double* h) {
        return square | (h[centered] ? unsigned(mean) : 0) | (h[momentum] != 0 ? unsigned(buffer) : 0);
    }

    T rate, decay, rest, epsilon, mu;

    GRADFUSE_HD RMSprop(const double* h, const Clock&)
        : rate(T(h[lr])), decay(T(h[alpha])), rest(T(1 - h[alpha])), epsilon(T(h[eps])), mu(T(h[momentum])) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        T v = state[0] = math::fma(decay, state[0], rest * g * g);
        if constexpr ((S & mean) != 0) {
            const T m = state[1] = math::fma(decay, state[1], rest * g);
            v = math::max(v - m * m, T(0));  // it may be below 0 because of rounding
        }
        T step = g / (math::sqrt(v) + epsilon);
        if constexpr ((S & buffer) != 0) step = state[2] = math::fma(mu, state[2], step);
        p -= rate * step;
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
