// All normalizations within a sample, one line each. A new one needs a header, a line here and its reference.
// CPU, CUDA, bindings, tests, benchmarks, stubs and the documentation's table are all made from this list.
#pragma once

#include "core/list.h"
#include "formulas/norms/group_norm.h"
#include "formulas/norms/instance_norm.h"
#include "formulas/norms/layer_norm.h"
#include "formulas/norms/rms_norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using Norms = List<  //
    LayerNorm,       //
    RmsNorm,         //
    GroupNorm,       //
    InstanceNorm>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
