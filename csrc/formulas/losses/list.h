// All elementwise losses, one line each. A new one needs a header, a line here and its function in
// gradfuse.reference. `loss` is the loss of one element, `gradient` its derivative with respect to pred.
#pragma once

#include "core/list.h"
#include "formulas/losses/mse_loss.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using Losses = List<  //
    MseLoss>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
