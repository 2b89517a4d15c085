// Every elementwise loss, one line each: a new one is its header, its line here and its function in
// gradfuse.reference. `loss` is that of one element, `gradient` its derivative in pred.
#pragma once

#include "core/list.h"
#include "formulas/losses/mse_loss.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using Losses = List<  //
    MseLoss>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
