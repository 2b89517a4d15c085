// All optimizers, one line each. A new one needs a header, a line here and its class in gradfuse.reference.
// CPU, CUDA, the Python classes, tests, benchmarks, stubs and the documentation's table are all made from this list.
#pragma once

#include "core/list.h"
#include "formulas/optimizers/adagrad.h"
#include "formulas/optimizers/adam.h"
#include "formulas/optimizers/adamax.h"
#include "formulas/optimizers/adamw.h"
#include "formulas/optimizers/nadam.h"
#include "formulas/optimizers/rmsprop.h"
#include "formulas/optimizers/sgd.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using Optimizers = List<  //
    Sgd,                  //
    Adagrad,              //
    RMSprop,              //
    Adam,                 //
    AdamW,                //
    NAdam,                //
    Adamax>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
