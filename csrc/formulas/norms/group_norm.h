#pragma once

#include "formulas/norms/norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct GroupNorm {
    static constexpr NormInfo info{"group_norm",
                                   Groups::channel_groups,
                                   "(x - mean) / sqrt(var + eps) * weight + bias",
                                   "Wu and He 2018; torch.nn.functional.group_norm",
                                   true,
                                   {{"eps", Kind::number, 1e-5, 0, at_least_zero}}};
    using Forward = Normalize<T>;
    using Backward = NormalizeBackward<T>;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
