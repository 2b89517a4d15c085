#pragma once

#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Sgd : Optimizer {
    static constexpr OptimizerInfo info{
        "SGD",
        "b = momentum * b + (1 - dampening) * g (b = g at t = 1); p -= lr * b; nesterov: p -= lr * (g + momentum * b)",
        "Polyak 1964, Nesterov 1983, Sutskever et al. 2013; torch.optim.SGD, lr_in_momentum: keras.optimizers.SGD",
        {"momentum_buffer"},
        {{"lr", Kind::number, 1e-3, 0, at_least_zero},
         {"momentum", Kind::number, 0, 0, at_least_zero},
         {"dampening", Kind::number, 0, 0, finite},
         {"weight_decay", Kind::number, 0, 0, at_least_zero},
         {"nesterov", Kind::flag},
         {"lr_in_momentum", Kind::flag}}};
    enum { lr, momentum, dampening, weight_decay, nesterov, lr_in_momentum };
    enum : unsigned { buffer = 1 };
    using Slots = SlotSets<0, buffer>;
    static GRADFUSE_HD unsigned slots(const double* h) { return h[momentum] != 0 ? unsigned(buffer) : 0; }

    T mu, inside, gain, outside;  // lr is applied inside the buffer or outside it
    bool look_ahead;

    GRADFUSE_HD Sgd(const double* h, const Clock& clock)
        : mu(T(h[momentum])),
          inside(T(h[lr_in_momentum] ? h[lr] : 1)),
          gain(T((clock.t == 1 ? 1 : 1 - h[dampening]) * (h[lr_in_momentum] ? h[lr] : 1))),
          outside(T(h[lr_in_momentum] ? 1 : h[lr])),
          look_ahead(h[nesterov] != 0) {}

    template <unsigned S>
    GRADFUSE_HD void update(T& p, T g, T* state) const {
        if constexpr (S == 0) {
            p -= outside * (inside * g);
        } else {
            const T b = mu * state[0] + gain * g;
            p -= outside * (look_ahead ? inside * g + mu * b : b);
            state[0] = b;
        }
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
