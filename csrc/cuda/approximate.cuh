// The arithmetic of formulas whose results are rounded to 16 bits: float, with elementary functions that take the GPU's
// approximations. Before the rounding, results are right to about 2^-17.
#pragma once

#include "core/math.h"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

struct Approximate {
    float value;

    Approximate() = default;
    template <class N>
    constexpr GRADFUSE_HD Approximate(N n) : value(float(n)) {}
    explicit constexpr GRADFUSE_HD operator float() const { return value; }

    friend GRADFUSE_HD Approximate operator-(Approximate a) { return -a.value; }
    friend GRADFUSE_HD Approximate operator+(Approximate a, Approximate b) { return a.value + b.value; }
    friend GRADFUSE_HD Approximate operator-(Approximate a, Approximate b) { return a.value - b.value; }
    friend constexpr GRADFUSE_HD Approximate operator*(Approximate a, Approximate b) { return a.value * b.value; }
    friend GRADFUSE_HD Approximate operator/(Approximate a, Approximate b) {
        // Neither b nor the reciprocal may be denormal or infinite.
        const bool small = math::abs(b.value) < 0x1p-60f;
        const float r = math::fast_reciprocal(b.value * (small ? 0x1p24f : 0x1p-2f));
        return small ? a.value * 0x1p24f * r : a.value * (r * 0x1p-2f);
    }
    friend GRADFUSE_HD bool operator<(Approximate a, Approximate b) { return a.value < b.value; }
    friend GRADFUSE_HD bool operator>(Approximate a, Approximate b) { return a.value > b.value; }
    friend GRADFUSE_HD bool operator<=(Approximate a, Approximate b) { return a.value <= b.value; }
    friend GRADFUSE_HD bool operator>=(Approximate a, Approximate b) { return a.value >= b.value; }
    friend GRADFUSE_HD bool operator==(Approximate a, Approximate b) { return a.value == b.value; }
};

// The type that a formula computes in for a storage type.
template <class S>
using Arithmetic = std::conditional_t<sizeof(S) == 2, Approximate, Compute<S>>;

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda

namespace gradfuse {
inline namespace GRADFUSE_ISA {
namespace math {

using cuda::Approximate;

// Every function of math.h that a formula may call. Most are those of float.
GRADFUSE_HD Approximate abs(Approximate x) { return abs(x.value); }
GRADFUSE_HD Approximate sqrt(Approximate x) { return sqrt(x.value); }
GRADFUSE_HD Approximate copysign(Approximate x, Approximate sign) { return copysign(x.value, sign.value); }
GRADFUSE_HD bool is_finite(Approximate x) { return is_finite(x.value); }
GRADFUSE_HD Approximate min(Approximate a, Approximate b) { return min(a.value, b.value); }
GRADFUSE_HD Approximate max(Approximate a, Approximate b) { return max(a.value, b.value); }
GRADFUSE_HD Approximate max_or_nan(Approximate a, Approximate b) { return max_or_nan(a.value, b.value); }
GRADFUSE_HD Approximate fma(Approximate a, Approximate b, Approximate c) { return fma(a.value, b.value, c.value); }
GRADFUSE_HD Approximate keep_if(bool keep, Approximate x) { return keep_if(keep, x.value); }
GRADFUSE_HD Approximate relu6(Approximate x) { return relu6(x.value); }
GRADFUSE_HD Approximate log(Approximate x) { return log(x.value); }
GRADFUSE_HD Approximate log1p(Approximate x) { return log1p(x.value); }
GRADFUSE_HD Approximate erf(Approximate x) { return erf(x.value); }
GRADFUSE_HD Approximate log1p_unit(Approximate x) { return log1p_unit(x.value); }
GRADFUSE_HD Approximate gauss_argument(Approximate x) { return gauss_argument(x.value); }

GRADFUSE_HD Approximate exp(Approximate x) { return fast_exp2(x.value * Format<float>::log2e); }
GRADFUSE_HD Approximate exp_nonpositive(Approximate x) { return exp(x); }
GRADFUSE_HD Approximate row_exp(Approximate x) { return exp(x); }

// Near 0 the power series, because exp(x) - 1 cancels.
GRADFUSE_HD Approximate expm1(Approximate x) {
    const float series = fma(x.value * x.value, fma(x.value, 1.0f / 6, 0.5f), x.value);
    return abs(x.value) < 0x1p-5f ? series : exp(x).value - 1;
}

GRADFUSE_HD Approximate sigmoid(Approximate x) {
    const float e = exp(-abs(x)).value, s = fast_reciprocal(1 + e);
    return x.value < 0 ? e * s : s;
}
GRADFUSE_HD Approximate sigmoid_of_minus(Approximate x) { return sigmoid(-x); }

GRADFUSE_HD Approximate tanh(Approximate x) {
    const float a = abs(x.value), z = a * a, e = exp(Approximate(-2 * a)).value;
    const float series = fma(a * z, horner(z, -0.333333333f, 0.133333333f, -0.0539682540f), a);
    const float far = fma(-2 * e, fast_reciprocal(1 + e), 1.0f);
    return copysign(a < 0.25f ? series : far, x.value);
}

// Phi(-a) = t P(t) exp(-a^2 / 2), t = 1 / (1 + 0.365 a). P is right to 2^-19, and 1 / 2 at 1.
GRADFUSE_HD void normal_tail(Approximate a, Approximate& tail, Approximate& density, Approximate& scale) {
    const float x = a.value, t = fast_reciprocal(fma(0.365f, x, 1.0f));
    const float e = fast_exp2(x * x * (-0.5f * Format<float>::log2e));
    tail =
        t * e *
        horner(t, 0.145678267f, 0.144241855f, 0.137965515f, 0.0352012031f, 0.165479198f, -0.176749408f, 0.048183389f);
    density = 0.398942280f * e;
    scale = 1;
}

}  // namespace math
}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
