#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Hardswish {
    static constexpr FormulaInfo info{"hardswish", Saves::x, "x * min(max(x + 3, 0), 6) / 6",
                                      "Howard et al. 2019; torch.nn.functional.hardswish"};

    explicit GRADFUSE_HD Hardswish(const double*) {}

    GRADFUSE_HD T forward(T x) const { return x * (math::relu6(x + 3) * T(1.0 / 6)); }
    GRADFUSE_HD T backward(T dy, T x) const {
        const T inside = dy * (x < 3 ? math::fma(x, T(1.0 / 3), T(0.5)) : T(1));
        return math::keep_if(!(x <= -3), inside);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
