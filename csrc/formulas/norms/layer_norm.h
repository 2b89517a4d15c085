#pragma once

#include "formulas/norms/norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct LayerNorm {
    static constexpr NormInfo info{"layer_norm",
                                   Groups::rows,
                                   "(x - mean) / sqrt(var + eps) * weight + bias",
                                   "Ba, Kiros and Hinton 2016; torch.nn.functional.layer_norm",
                                   true,
                                   {{"eps", Kind::number, 1e-5, 0, at_least_zero}}};
    using Forward = Normalize<T>;
    using Backward = NormalizeBackward<T>;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
