#pragma once

#include "core/info.h"
#include "core/math.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct GeluTanh {
    static constexpr FormulaInfo info{"gelu_tanh", Saves::x, "0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))",
                                      "Hendrycks and Gimpel 2016; torch.nn.functional.gelu(approximate='tanh')"};

    explicit GRADFUSE_HD GeluTanh(const double*) {}

    static constexpr double root = 1.5957691216057307117597842397375;  // 2 sqrt(2 / pi)
    static constexpr double cubic = 0.044715;

    // 0.5 (1 + tanh(u)) = sigmoid(2u). For |x| > 32 the sigmoid is 0 or 1; x^2 may overflow there, and inf * 0 is NaN.
    GRADFUSE_HD T forward(T x) const {
        const T s = math::sigmoid(T(root) * x * math::fma(T(cubic) * x, x, T(1)));
        return x == -math::inf<T> ? T(0) : x * s;
    }
    GRADFUSE_HD T backward(T dy, T x) const {
        const T x2 = x * x;
        const T s = math::sigmoid(T(root) * x * math::fma(T(cubic), x2, T(1)));
        const T slope =
            T(root) * x * math::fma(3 * T(cubic), x2, T(1));  // the slope of the sigmoid's argument, times x
        return dy * (math::abs(x) > 32 ? s : s * math::fma(slope, 1 - s, T(1)));
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
