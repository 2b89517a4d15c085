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

    // At an infinity the product would be inf * 0: its limit is taken instead.
    GRADFUSE_HD T forward(T x) const { return x == -math::inf<T> ? T(0) : x * math::normal_cdf(x); }
    GRADFUSE_HD T backward(T dy, T x) const {
        T cdf, pdf;
        math::normal_cdf_pdf(x, cdf, pdf);
        return dy * (math::abs(x) == math::inf<T> ? cdf : math::fma(x, pdf, cdf));
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
