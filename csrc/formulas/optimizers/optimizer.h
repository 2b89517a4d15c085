// The parts of an optimizer's formula.
//
// A formula is constructed once per step, in double, from the values of its hyper-parameters and the clock. The values
// are in the order of info.hypers; a pair has two values, and the first value is the schedule's lr. The formula keeps
// constants in the compute type. `update` then takes one element: its parameter, its gradient (already unscaled and
// clipped, with the sign of maximize and weight decay applied) and its state. `Slots` has a bit for each state array in
// use; the other arrays are not read or written.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/backend.h"
#include "core/info.h"
#include "core/math.h"

namespace gradfuse {

inline namespace GRADFUSE_ISA {

// The sets of state arrays that a formula is compiled for.
template <unsigned... Slots>
struct SlotSets {};

// mean + rest * (x - mean), without loss of accuracy if x is small compared with the mean.
template <class T>
GRADFUSE_HD T average(T mean, T rest, T x) {
    return math::fma(rest, x, math::fma(-rest, mean, mean));
}

struct Optimizer {
    static GRADFUSE_HD void advance(const double*, Clock&) {}  // called once per step, after t is increased
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
