// What every optimizer's formula is made of.
//
// A formula is built once per step, on the host and in double, from the values of its hyper-parameters (in the order of
// info.hypers, a pair taking two places, the schedule's lr first) and the clock; what it keeps is the compute type's
// constants. `update` then takes one element: its parameter, its gradient (already unscaled, clipped, sign and weight
// decay seen to) and its state. `Slots` has a bit for each state array in use: the others are neither read nor written.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/backend.h"
#include "core/info.h"
#include "core/math.h"

namespace gradfuse {

inline namespace GRADFUSE_ISA {

// The sets of state arrays a formula is compiled for.
template <unsigned... Slots>
struct SlotSets {};

// mean + rest * (x - mean), with nothing lost where x is small beside the mean.
template <class T>
GRADFUSE_HD T average(T mean, T rest, T x) {
    return math::fma(rest, x, math::fma(-rest, mean, mean));
}

struct Optimizer {
    static GRADFUSE_HD void advance(const double*, Clock&) {}  // called once a step, after t has been counted
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
