#pragma once

#include "formulas/norms/norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct InstanceNorm {
    static constexpr NormInfo info{"instance_norm",
                                   Groups::channels,
                                   "(x - mean) / sqrt(var + eps) * weight + bias",
                                   "Ulyanov, Vedaldi and Lempitsky 2016; torch.nn.functional.instance_norm",
                                   true,
                                   {{"eps", Kind::number, 1e-5, 0, at_least_zero}}};
    using Forward = Normalize<T>;
    using Backward = NormalizeBackward<T>;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
