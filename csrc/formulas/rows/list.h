// Every row operation, one line each: a new one is its header, its line here and its pair in gradfuse.reference.
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
