// Elementary functions for float and double: branch-free, without tables, intrinsics or calls, so that the compiler
// vectorises any loop around them and a vector lane gives bit for bit what the scalar gives.
//
// NaN gives NaN, infinities give their limits, denormal results are kept. "ulp" is the largest error found against the
// correctly rounded result: over all 2^32 floats, over some 10^8 doubles; the second figure is for a machine without FMA.
// tools/fit_math.py derives the coefficients. Build with -fno-math-errno -fno-trapping-math -ffp-contract=off.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/config.h"

namespace smelt {
inline namespace SMELT_ISA {
namespace math {

#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
#define SMELT_HAS_FMA 1
#else
#define SMELT_HAS_FMA 0
#endif

template <class T>
constexpr T inf = T(__builtin_huge_val());
template <class T>
constexpr T nan = T(__builtin_nan(""));

// What the functions need to know of a format. `round` + x has the integer nearest to x in its low bits; x = n ln2 + r is
// taken with ln2 = ln2_high + ln2_low, where n ln2_high is exact.
template <class T>
struct Format;

template <>
struct Format<float> {
    using Bits = std::uint32_t;
    static constexpr int fraction = 23;
    static constexpr Bits bias = 127, exponent_mask = 0x7f800000, one = 0x3f800000, root_half = 0x3f3504f3, high_half = 0xfffff000;
    static constexpr float round = 0x1.8p23f, log2e = 0x1.715476p0f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
    static constexpr float exp_low = -104, exp_high = 89, gauss_high = 14.5f, expm1_low = -18, tanh_high = 9.01f;
};

template <>
struct Format<double> {
    using Bits = std::uint64_t;
    static constexpr int fraction = 52;
    static constexpr Bits bias = 1023, exponent_mask = 0x7ff0000000000000, one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd,
                          high_half = 0xfffffffff8000000;
    static constexpr double round = 0x1.8p52, log2e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
    static constexpr double exp_low = -745.2, exp_high = 710, gauss_high = 38.6, expm1_low = -38, tanh_high = 19.1;
};

template <class T>
using Bits = typename Format<T>::Bits;

template <class T>
SMELT_HD Bits<T> to_bits(T x) {
    Bits<T> b;
    std::memcpy(&b, &x, sizeof b);
    return b;
}

template <class T>
SMELT_HD T from_bits(Bits<T> b) {
    T x;
    std::memcpy(&x, &b, sizeof x);
    return x;
}

SMELT_HD float abs(float x) { return __builtin_fabsf(x); }
SMELT_HD double abs(double x) { return __builtin_fabs(x); }
SMELT_HD float sqrt(float x) { return __builtin_sqrtf(x); }
SMELT_HD double sqrt(double x) { return __builtin_sqrt(x); }

#if SMELT_HAS_FMA
SMELT_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SMELT_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
SMELT_HD float fma(float a, float b, float c) { return a * b + c; }
SMELT_HD double fma(double a, double b, double c) { return a * b + c; }
#endif

// A NaN in the first argument stays; max_or_nan keeps it from either.
template <class T>
SMELT_HD T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
SMELT_HD T max(T a, T b) {
    return a < b ? b : a;
}
template <class T>
SMELT_HD T max_or_nan(T a, T b) {
    return (a > b) | (a != a) ? a : b;
}

template <class T>
SMELT_HD T copysign(T magnitude, T sign) {
    constexpr Bits<T> sign_bit = Bits<T>(1) << (sizeof(T) * 8 - 1);
    return from_bits<T>((to_bits(magnitude) & ~sign_bit) | (to_bits(sign) & sign_bit));
}

// c0 + c1 x + c2 x^2 + ...
template <class T>
SMELT_HD T horner(T, T c) {
    return c;
}
template <class T, class... C>
SMELT_HD T horner(T x, T c, C... rest) {
    return fma(horner(x, rest...), x, c);
}

// ---- exp and its kin -------------------------------------------------------------------------------------------------

// x = n ln2 + r, |r| <= ln2 / 2. Returns r; the low bits of `t` hold n + offset.
template <class T>
SMELT_HD T reduce(T x, int offset, T& t) {
    using F = Format<T>;
    const T round = F::round + T(offset);
    t = fma(x, F::log2e, round);
    const T n = t - round;
    return fma(n, -F::ln2_low, fma(n, -F::ln2_high, x));
}

// The same of -x^2 / 2. The rounding of x^2 would cost the tail 50 ulp: the high part of n ln2 is taken off unrounded.
template <class T>
SMELT_HD T reduce_half_square(T x, int offset, T& t) {
    using F = Format<T>;
    const T round = F::round + T(offset);
    t = fma(x * x, T(-0.5) * F::log2e, round);
    const T n = t - round;
#if SMELT_HAS_FMA
    const T r = fma(x, T(-0.5) * x, -n * F::ln2_high);
#else
    const T high = from_bits<T>(to_bits(x) & F::high_half);
    const T r = (T(-0.5) * high * high - n * F::ln2_high) - T(0.5) * (x - high) * (x + high);
#endif
    return fma(n, -F::ln2_low, r);
}

// exp(r) - 1 = r + r^2 P(r).
SMELT_HD float expm1_reduced(float r) {
    return fma(r * r, horner(r, 0.5f, 0.166665465f, 0.0416668206f, 0.00836629141f, 0.00139014877f), r);
}
SMELT_HD double expm1_reduced(double r) {
    return fma(r * r,
               horner(r, 0.5, 0.16666666666666602, 0.041666666666619265, 0.00833333333338841, 0.0013888888920869803,
                      0.0001984126970960588, 2.480151581088103e-05, 2.7557424296439142e-06, 2.762247183401437e-07,
                      2.5046378815345335e-08),
               r);
}

// 2^n of an n + bias in the low bits.
template <class T>
SMELT_HD T power_of_two(Bits<T> biased) {
    return from_bits<T>(biased << Format<T>::fraction);
}

// 2^n is applied as two factors: that reaches the denormals, rounding once, and the overflow. 
template <class T>
SMELT_HD T exp(T x) {
    using F = Format<T>;
    T t;
    const T r = reduce(min(max(x, F::exp_low), F::exp_high), 2 * F::bias, t);
    const Bits<T> n = to_bits(t), half = n >> 1;
    return (1 + expm1_reduced(r)) * power_of_two<T>(half) * power_of_two<T>(n - half);
}

// 2^n (exp(r) - 1) + (2^n - 1), as twice half of it for 2^128 is no float, in an order that keeps the denormals.
template <class T>
SMELT_HD T expm1(T x) {
    using F = Format<T>;
    T t;
    const T q = expm1_reduced(reduce(min(max(x, F::expm1_low), F::exp_high), F::bias - 1, t));
    const T s = power_of_two<T>(to_bits(t)), rest = s - T(0.5);
    return fma(s, q + q, rest) + rest;
}

// With exp(-x) = p a b, where a and b are powers of two that share n: (1/a) / (1/a + p b). Neither overflows, and the one
// rounding into the denormals is the division's.
template <class T>
SMELT_HD T sigmoid(T x) {
    using F = Format<T>;
    T t;
    const T p = 1 + expm1_reduced(reduce(min(max(-x, F::exp_low), -F::exp_low), 2 * F::bias, t));
    const Bits<T> n = to_bits(t), half = n >> 1;
    const T inverse = power_of_two<T>(2 * F::bias - half);
    return inverse / fma(p, power_of_two<T>(n - half), inverse);
}

// x P(x^2) / Q(x^2); 1 to the last bit from 9.01 on.
SMELT_HD float tanh(float x) {
    const float a = min(max(x, -Format<float>::tanh_high), Format<float>::tanh_high), z = a * a;
    const float p = horner(z, 1.0f, 0.136802718f, 0.00386870024f, 2.80102013e-05f, 3.05707175e-08f, -1.21722294e-11f);
    return a * p / horner(z, 1.0f, 0.470136046f, 0.0272473954f, 0.000393912196f, 1.28728675e-06f);
}

// expm1(2|x|) / (expm1(2|x|) + 2).
SMELT_HD double tanh(double x) {
    using F = Format<double>;
    const double a = min(abs(x), F::tanh_high);
    double t;
    const double q = expm1_reduced(reduce(a + a, F::bias, t)), s = power_of_two<double>(to_bits(t));
    const double e = fma(s, q, s - 1);
    return copysign(e / (e + 2), x);
}

// ---- logarithms ------------------------------------------------------------------------------------------------------

// log1p(f) - f for 1 + f from sqrt(1/2) to sqrt(2): f^2 P(f) in float; in double with s = f / (2 + f), log1p(f) = f - s (f - s^2 P(s^2)).
SMELT_HD float log1p_tail(float f) {
    return f * f * horner(f, -0.5f, 0.333333313f, -0.250008225f, 0.20001246f, -0.166233256f, 0.142014265f, -0.131601661f,
                          0.127634406f, -0.0763659999f);
}
SMELT_HD double log1p_tail(double f) {
    const double s = f / (2 + f), u = s * s;
    return s * fma(u,
                   horner(u, 0.6666666666666734, 0.3999999999941673, 0.2857142874200068, 0.22222198608229585,
                          0.18183562677752052, 0.15314089379328896, 0.1479558757857784),
                   -f);
}

// log(u + c) for u > 0 and |c| below half an ulp of u: u = 2^n m, f = m - 1 + c / 2^n.
template <class T>
SMELT_HD T log_sum(T u, T c) {
    using F = Format<T>;
    const Bits<T> b = to_bits(u) + (F::one - F::root_half), e = b & F::exponent_mask;
    const T big = from_bits<T>((F::bias + F::fraction) << F::fraction);  // 2^23: its low bits count ones
    const T n = from_bits<T>((b >> F::fraction) | to_bits(big)) - (big + T(F::bias));
    const T m = from_bits<T>(to_bits(u) - e + F::one), inverse = from_bits<T>(F::exponent_mask - e);  // 2 / 2^n
    const T f = fma(inverse, T(0.5) * c, m - 1);
    return fma(n, F::ln2_high, f + fma(n, F::ln2_low, log1p_tail(f)));
}

template <class T>
SMELT_HD T log(T x) {
    using F = Format<T>;
    constexpr T scale = F::fraction == 23 ? T(0x1p32) : T(0x1p64), tiny = F::fraction == 23 ? T(0x1p-126) : T(0x1p-1022);
    const bool denormal = x < tiny;
    const T y = log_sum(denormal ? x * scale : x, T(0)) - (denormal ? (F::fraction == 23 ? 32 : 64) * T(0x1.62e42fefa39efp-1) : T(0));
    return x > 0 ? (x < inf<T> ? y : x) : (x == 0 ? -inf<T> : nan<T>);
}

template <class T>
SMELT_HD T log1p(T x) {
    const T u = 1 + x;
    const T y = u == 1 ? x : log_sum(u, x - (u - 1));
    return u > 0 ? (u < inf<T> ? y : u) : (u == 0 ? -inf<T> : nan<T>);
}

// log1p on [0, 1] only: no reduction.
SMELT_HD float log1p_unit(float x) {
    return fma(x * x,
               horner(x, -0.499999315f, 0.333304793f, -0.249582931f, 0.196940243f, -0.153517187f, 0.106747031f, -0.0576095879f,
                      0.0201766267f, -0.00331249624f),
               x);
}
SMELT_HD double log1p_unit(double x) {
    const double s = x / (2 + x), u = s * s;
    return x - s * fma(-u,
                       horner(u, 0.6666666666666631, 0.4000000000015616, 0.2857142854796665, 0.22222223963690618,
                              0.18181744113494766, 0.15386556295616358, 0.13301017193059408, 0.12105767036193762,
                              0.08341403167788027, 0.1701630835857417),
                       x);
}

// ---- the Gaussian ----------------------------------------------------------------------------------------------------

// exp(-a^2 / 2) = p low high, low and high powers of two; a >= 0.
template <class T>
SMELT_HD T gauss(T a, T& low, T& high) {
    T t;
    const T p = 1 + expm1_reduced(reduce_half_square(a, 2 * Format<T>::bias, t));
    const Bits<T> n = to_bits(t), half = n >> 1;
    low = power_of_two<T>(half);
    high = power_of_two<T>(n - half);
    return p;
}

// Phi(-a) / exp(-a^2 / 2) = P(a) / Q(a), all coefficients positive.
SMELT_HD void mills(float a, float& p, float& q) {
    p = horner(a, 0.5f, 0.437537074f, 0.182638034f, 0.0404216871f, 0.00408193935f);
    q = horner(a, 1.0f, 1.67295897f, 1.20010042f, 0.467885435f, 0.101328701f, 0.0102317827f);
}
SMELT_HD void mills(double a, double& p, double& q) {
    p = horner(a, 0.5, 0.827465163698035, 0.6788414518142387, 0.3567166048479813, 0.13172006118842944, 0.035550303909851436,
               0.0070924625337877795, 0.0010340497434890357, 0.00010583598017837449, 6.914605892399023e-06,
               2.2163061541906692e-07);
    q = horner(a, 1.0, 2.4528148881989353, 2.8147460334298144, 1.9988296885188934, 0.9782568304057142, 0.3474263622897796,
               0.09166871086680417, 0.018042347484554327, 0.0026093106712352324, 0.0002658470059525945, 1.73323466378447e-05,
               5.555455671331879e-07);
}

template <class T>
SMELT_HD void normal_cdf_pdf(T x, T& cdf, T& pdf) {
    T low, high, p, q;
    const T a = min(abs(x), Format<T>::gauss_high), g = gauss(a, low, high);
    mills(a, p, q);
    const T tail = g * p / q * low * high;
    cdf = x > 0 ? 1 - tail : tail;
    pdf = T(0.398942280401432677939946) * g * low * high;
}

template <class T>
SMELT_HD T normal_cdf(T x) {
    T cdf, pdf;
    normal_cdf_pdf(x, cdf, pdf);
    return cdf;
}

template <class T>
SMELT_HD T normal_pdf(T x) {
    T low, high;
    const T g = gauss(min(abs(x), Format<T>::gauss_high), low, high);
    return T(0.398942280401432677939946) * g * low * high;
}

// x P(x^2) / Q(x^2); 1 to the last bit from 3.95 on.
SMELT_HD float erf(float x) {
    const float a = min(max(x, -3.95f), 3.95f), z = a * a;
    const float p = horner(z, 1.12837923f, 0.17397815f, 0.0598585829f, 0.00431799795f, 0.000678299519f, 1.28445072e-05f,
                           -5.43179155e-08f);
    return a * p / horner(z, 1.0f, 0.487519175f, 0.115545116f, 0.0174203478f, 0.00180703064f, 0.000140734686f);
}

// |x| < 1: x P(x^2) / Q(x^2); beyond: 1 - 2 Phi(-sqrt(2) |x|).
SMELT_HD double erf(double x) {
    const double a = min(abs(x), 6.0), z = a * a;
    const double small_p = a * horner(z, 1.1283791670955126, 0.1351181274893647, 0.044375075122779155, 0.001567904351418153,
                                      0.00018502745914158214, -4.024464757734442e-07);
    const double small_q = horner(z, 1.0, 0.45307865603116415, 0.09035260506993899, 0.010008712281319896,
                                  0.0006229106628642019, 1.7650859214184077e-05);
    const double b = 0x1.6a09e667f3bcdp0 * a;
    double p, q, low, high;
    const double g = gauss(b, low, high);
    mills(b, p, q);
    const bool small = a < 1;
    const double ratio = (small ? small_p : 2 * g * p * low * high) / (small ? small_q : q);
    return copysign(small ? ratio : 1 - ratio, x);
}

}  // namespace math
}  // namespace SMELT_ISA
}  // namespace smelt
