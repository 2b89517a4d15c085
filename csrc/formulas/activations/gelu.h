#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct Gelu {
    static constexpr FormulaInfo info{"gelu", Saves::x, "x * Phi(x), Phi the standard normal distribution",
                                      "Hendrycks and Gimpel 2016; torch.nn.functional.gelu"};

    explicit GRADFUSE_HD Gelu(const double*) {}

    // max(x, 0) - |x| Phi(-|x|) has no product of an infinity and 0.
    GRADFUSE_HD T forward(T x) const {
        const T a = math::gauss_argument(x);
        T tail, density, scale;
        math::normal_tail(a, tail, density, scale);
        return math::fma(-a * scale, tail, x > 0 ? x : T(0));
    }
    // Phi(x) + x phi(x) is u at -|x|, and 1 - u at |x|.
    GRADFUSE_HD T backward(T dy, T x) const {
        const T a = math::gauss_argument(x);
        T tail, density, scale;
        math::normal_tail(a, tail, density, scale);
        const T u = math::fma(-a, density, tail) * scale;
        return dy * (x > 0 ? 1 - u : u);
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
