// All elementwise activations, one line each. A new one needs a header, a line here, and its forward and backward in
// gradfuse.reference. CPU, CUDA, bindings, tests, benchmarks, stubs and the documentation's table are all made from
// this list.
#pragma once

#include "core/list.h"
#include "formulas/activations/celu.h"
#include "formulas/activations/elu.h"
#include "formulas/activations/gelu.h"
#include "formulas/activations/gelu_tanh.h"
#include "formulas/activations/hardsigmoid.h"
#include "formulas/activations/hardswish.h"
#include "formulas/activations/hardtanh.h"
#include "formulas/activations/leaky_relu.h"
#include "formulas/activations/logsigmoid.h"
#include "formulas/activations/mish.h"
#include "formulas/activations/relu.h"
#include "formulas/activations/relu6.h"
#include "formulas/activations/selu.h"
#include "formulas/activations/sigmoid.h"
#include "formulas/activations/silu.h"
#include "formulas/activations/softplus.h"
#include "formulas/activations/softsign.h"
#include "formulas/activations/tanh.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

using Activations = List<  //
    Relu,                  //
    LeakyRelu,             //
    Elu,                   //
    Celu,                  //
    Selu,                  //
    Softplus,              //
    Silu,                  //
    Gelu,                  //
    GeluTanh,              //
    Mish,                  //
    Sigmoid,               //
    Tanh,                  //
    LogSigmoid,            //
    Softsign,              //
    Relu6,                 //
    Hardtanh,              //
    Hardsigmoid,           //
    Hardswish>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
