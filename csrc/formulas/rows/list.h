// All row operations, one line each. A new one needs a header, a line here, and its forward and backward in
// gradfuse.reference.
// CPU, CUDA, bindings, tests, benchmarks, stubs and the documentation's table are all made from this list.
#pragma once

#include "core/list.h"
#include "formulas/rows/log_softmax.h"
#include "formulas/rows/softmax.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using RowOperations = List<  //
    Softmax,                 //
    LogSoftmax>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
