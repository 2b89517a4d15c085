// The update of one element by any optimizer: the formula, and the operations around it. The loops of all devices call
// this.
#pragma once

#include "core/backend.h"
#include "formulas/optimizers/optimizer.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// A run of one tensor's elements: contiguous and of the compute type.
template <class T>
struct Slices {
    T* p;
    const T* g;
    T* state[OptimizerInfo::max_slots];
};

// The step of one group in the compute type. The order is: unscale, clip and maximize (one factor), weight decay,
// update.
template <template <class> class Formula, class T>
struct Update {
    Formula<T> formula;
    unsigned slots;
    T factor, coupled, decoupled;

    // The clock has already counted this step; `clip` is the clipping factor.
    GRADFUSE_HD Update(const GroupStep& s, const Clock& clock, double clip)
        : formula(s.values, clock),
          slots(Formula<T>::slots(s.values)),
          factor(T(s.gradient_factor * clip)),
          coupled(T(s.coupled_decay)),
          decoupled(T(s.decoupled_factor)) {}

    // Slots has the bits of `slots`. This must be a function: as local variables of the loop the state would stay in
    // memory, and GCC would not vectorize the loop.
    template <unsigned Slots>
    GRADFUSE_HD void element(const Slices<T>& at, std::int64_t i) const {
        T state[OptimizerInfo::max_slots] = {};
        if constexpr (Slots & 1) state[0] = at.state[0][i];
        if constexpr (Slots & 2) state[1] = at.state[1][i];
        if constexpr (Slots & 4) state[2] = at.state[2][i];
        T p = at.p[i];
        const T decay = coupled * p;
        const T g = factor * at.g[i] + (coupled != 0 ? decay : T(0));
        p *= decoupled;
        formula.template update<Slots>(p, g, state);
        at.p[i] = p;
        if constexpr (Slots & 1) at.state[0][i] = state[0];
        if constexpr (Slots & 2) at.state[1][i] = state[1];
        if constexpr (Slots & 4) at.state[2][i] = state[2];
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
