// Elementary functions for float and double, without branches, tables, intrinsics or calls. So the compiler vectorizes
// any loop around them, and a vector lane gives bit for bit the same result as scalar code.
//
// NaN gives NaN, infinities give their limits, denormal results are kept. "Error" is the greatest error found, with FMA
// (in parentheses: without), for float over all 2^32 arguments, for double over 2 * 10^7. The coefficients come from
// tools/fit_math.py. Build with -fno-math-errno -fno-trapping-math -ffp-contract=off.
//
// A new function for formulas needs an overload in csrc/cuda/approximate.cuh.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/config.h"

#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__aarch64__)
#define GRADFUSE_HAS_FMA 1
#else
#define GRADFUSE_HAS_FMA 0
#endif

namespace gradfuse {
inline namespace GRADFUSE_ISA {
namespace math {

template <class T>
constexpr T inf = T(__builtin_huge_val());
template <class T>
constexpr T nan = T(__builtin_nan(""));

// ---- the formats ----------------------------------------------------------------------------------------------------

template <class T>
struct Format;

template <>
struct Format<float> {
    using Bits = std::uint32_t;
    static constexpr int fraction = 23, bias = 127;
    static constexpr Bits one = 0x3f800000, three_quarters = 0x3f400000, exponent = 0x7f800000, high_half = 0xfffff000;
    static constexpr float log2e = 0x1.715476p0f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
    static constexpr float round = 0x1.8p23f;  // the low bits of round + x are the integer nearest to x
};

template <>
struct Format<double> {
    using Bits = std::uint64_t;
    static constexpr int fraction = 52, bias = 1023;
    static constexpr Bits one = 0x3ff0000000000000, three_quarters = 0x3fe8000000000000, exponent = 0x7ff0000000000000,
                          high_half = 0xfffffffff8000000;
    static constexpr double log2e = 0x1.71547652b82fep0, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
    static constexpr double round = 0x1.8p52;
};

template <class T>
using Bits = typename Format<T>::Bits;

template <class T>
GRADFUSE_HD Bits<T> to_bits(T x) {
    Bits<T> b;
    std::memcpy(&b, &x, sizeof b);
    return b;
}

template <class T>
GRADFUSE_HD T from_bits(Bits<T> b) {
    T x;
    std::memcpy(&x, &b, sizeof x);
    return x;
}

// 2^n. The low bits of `biased` hold n + bias.
template <class T>
GRADFUSE_HD T power_of_two(Bits<T> biased) {
    return from_bits<T>(biased << Format<T>::fraction);
}

// Arguments are clamped to bounds beyond which results are 0, 1 or infinite. The bounds are weak symbols, so the
// compiler must load them. If GCC knows the bounds, it makes two branches of every clamp instead of one min or max (a
// third of exp's time). `ones`, all bits set, is for keep_if.
template <class T>
struct Bounds {
    T exp, expm1_low, expm1_high, sigmoid, tanh, gauss, zero, six;
    Bits<T> ones;
};
#if defined(__CUDACC__)
GRADFUSE_HD Bounds<float> bounds(float) { return {104, -20, 89, 70, 10, 14.5f, 0, 6, ~0u}; }
GRADFUSE_HD Bounds<double> bounds(double) { return {745.2, -40, 710, 600, 20, 38.6, 0, 6, ~0ull}; }
#else
#define GRADFUSE_OPAQUE __attribute__((weak, visibility("hidden"))) extern const
GRADFUSE_OPAQUE Bounds<float> float_bounds = {104, -20, 89, 70, 10, 14.5f, 0, 6, ~0u};
GRADFUSE_OPAQUE Bounds<double> double_bounds = {745.2, -40, 710, 600, 20, 38.6, 0, 6, ~0ull};
#undef GRADFUSE_OPAQUE
GRADFUSE_HD const Bounds<float>& bounds(float) { return float_bounds; }
GRADFUSE_HD const Bounds<double>& bounds(double) { return double_bounds; }
#endif

// ---- arithmetic -----------------------------------------------------------------------------------------------------

GRADFUSE_HD float abs(float x) { return __builtin_fabsf(x); }
GRADFUSE_HD double abs(double x) { return __builtin_fabs(x); }
GRADFUSE_HD float sqrt(float x) { return __builtin_sqrtf(x); }
GRADFUSE_HD double sqrt(double x) { return __builtin_sqrt(x); }
GRADFUSE_HD float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
GRADFUSE_HD double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

template <class T>
GRADFUSE_HD bool is_finite(T x) {
    return abs(x) < inf<T>;
}

#if GRADFUSE_HAS_FMA
GRADFUSE_HD float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
GRADFUSE_HD double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
GRADFUSE_HD float fma(float a, float b, float c) { return a * b + c; }
GRADFUSE_HD double fma(double a, double b, double c) { return a * b + c; }
#endif

// min and max keep a NaN in the first argument, max_or_nan keeps a NaN in either argument.
template <class T>
GRADFUSE_HD T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
GRADFUSE_HD T max(T a, T b) {
    return a < b ? b : a;
}
template <class T>
GRADFUSE_HD T max_or_nan(T a, T b) {
    return ((a > b) | (a != a)) ? a : b;
}

// keep ? x : 0 for a product x. From the plain expression GCC makes a masked multiplication, whose load from memory
// waits for the mask.
template <class T>
GRADFUSE_HD T keep_if(bool keep, T x) {
    return from_bits<T>(to_bits(x) & (keep ? bounds(x).ones : 0));
}

// x clamped to [0, 6].
template <class T>
GRADFUSE_HD T relu6(T x) {
    return min(max(x, bounds(x).zero), bounds(x).six);
}

// c0 + c1 x + c2 x^2 + ...
template <class T>
GRADFUSE_HD T horner(T, T c0) {
    return c0;
}
template <class T, class... C>
GRADFUSE_HD T horner(T x, T c0, C... rest) {
    return fma(horner(x, rest...), x, c0);
}

// The same polynomial with z = x^2, even and odd powers computed separately. The dependency chain is half as long, but
// the two parts cancel if the signs of the coefficients alternate.
template <class T>
GRADFUSE_HD T even(T, T c0) {
    return c0;
}
template <class T>
GRADFUSE_HD T even(T, T c0, T) {
    return c0;
}
template <class T, class... C>
GRADFUSE_HD T even(T z, T c0, T, C... rest) {
    return fma(even(z, rest...), z, c0);
}
template <class T, class... C>
GRADFUSE_HD T polynomial(T x, T z, T c0, C... rest) {
    return fma(even(z, rest...), x, even(z, c0, rest...));
}

// A GPU's approximations of 2^x, to about 2 ulp, and of 1 / x, to 1 ulp. The first keeps denormals, the second takes
// them, and gives them, as 0.
#if defined(__CUDACC__)
#define GRADFUSE_HAS_APPROXIMATIONS 1
GRADFUSE_HD float fast_exp2(float x) {
    float y = x;
#if defined(__CUDA_ARCH__)
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
#endif
    return y;
}
GRADFUSE_HD float fast_reciprocal(float x) {
    float y = x;
#if defined(__CUDA_ARCH__)
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
#endif
    return y;
}
#elif defined(GRADFUSE_EMULATED)
#define GRADFUSE_HAS_APPROXIMATIONS 1
using emulator::fast_exp2;
using emulator::fast_reciprocal;
#else
#define GRADFUSE_HAS_APPROXIMATIONS 0
#endif
#if GRADFUSE_HAS_APPROXIMATIONS
// 2^(x + rest), where rest is small: the rounding error of x.
GRADFUSE_HD float fast_exp2(float x, float rest) {
    const float e = fast_exp2(x);
    return fma(e, rest * 0x1.62e43p-1f, e);
}
#endif

// ---- exp and related functions --------------------------------------------------------------------------------------

// x = n ln2 + r with |r| <= ln2 / 2; the low bits of `t` hold n + offset. n ln2_high is exact.
template <class T>
GRADFUSE_HD T reduce(T x, int offset, T& t) {
    using F = Format<T>;
    const T round = F::round + T(offset);
    t = fma(x, F::log2e, round);
    const T n = t - round;
    return fma(n, -F::ln2_low, fma(n, -F::ln2_high, x));
}

// (exp(r) - 1 - r) / r^2, z = r^2.
GRADFUSE_HD float exp_tail(float r, float) {
    return horner(r, 0.499999791f, 0.166665524f, 0.0416730046f, 0.00836570002f, 0.00135122577f);
}
GRADFUSE_HD double exp_tail(double r, double z) {
    return polynomial(r, z, 0.5, 0.16666666666666602, 0.041666666666619265, 0.00833333333338841, 0.0013888888920869803,
                      0.0001984126970960588, 2.480151581088103e-05, 2.7557424296439142e-06, 2.762247183401437e-07,
                      2.5046378815345335e-08);
}

template <class T>
GRADFUSE_HD T expm1_reduced(T r) {
    const T z = r * r;
    return fma(z, exp_tail(r, z), r);
}

// 2^this times a denormal is not denormal. This plus the bias is even, so ties are rounded as in exp.
template <class T>
constexpr int out_of_denormals = sizeof(T) == 4 ? 65 : 513;

// 2^n exp(r), with 2^n as two factors: they reach infinity, and the denormals with one rounding.
// Error: float 0.99 ulp (0.97), double 1.07 (1.05).
template <class T>
GRADFUSE_HD T exp(T x) {
    const T bound = bounds(x).exp;
    T t;
    const T q = expm1_reduced(reduce(min(max(x, -bound), bound), 2 * Format<T>::bias, t));
    const Bits<T> n = to_bits(t), half = n >> 1;
    const T a = power_of_two<T>(half), b = power_of_two<T>(n - half);
    return fma(a, q, a) * b;
}

// 2^n (exp(r) - 1) + (2^n - 1), with s = 2^n / 2 because 2^128 is not a float, and with 2r because r / 2 may lose the
// last bit of a denormal. Error: float 1.48 ulp (1.48), double 1.85 (1.85). expm1(-0) is 0.
template <class T>
GRADFUSE_HD T expm1(T x) {
    T t;
    const T r = reduce(min(max(x, bounds(x).expm1_low), bounds(x).expm1_high), Format<T>::bias - 1, t), r2 = r + r;
    const T s = power_of_two<T>(to_bits(t)), rest = s - T(0.5);
    return fma(s, r2 * r * exp_tail(r, r * r), fma(s, r2, rest)) + rest;
}

// exp for arguments that are at most 0, apart from rounding errors: one of the powers of two is a constant.
template <class T>
GRADFUSE_HD T exp_nonpositive(T x) {
    T t;
    const T q = expm1_reduced(reduce(max(x, -bounds(x).exp), Format<T>::bias + out_of_denormals<T>, t));
    const T a = power_of_two<T>(to_bits(t));
    return fma(a, q, a) * power_of_two<T>(Bits<T>(Format<T>::bias - out_of_denormals<T>));
}

// exp for arguments that are at most 0, in sums over a row. In float a GPU takes its own approximation of 2^x, and
// corrects it by the rounding error of x log2(e).
template <class T>
GRADFUSE_HD T row_exp(T x) {
    return exp_nonpositive(x);
}
#if GRADFUSE_HAS_APPROXIMATIONS
GRADFUSE_HD float row_exp(float x) {
    constexpr float log2e = Format<float>::log2e, log2e_rest = 0x1.4ae0cp-26f;
    x = max(x, -110.0f);
    const float power = x * log2e;
    return fast_exp2(power, fma(x, log2e_rest, fma(x, log2e, -power)));
}
#endif

// 1 / (1 + exp(x)) = c / (c + c exp(x)), c a power of two. Nothing overflows within the bounds of exp, and only the
// division rounds to denormals. Error: float 2.00 ulp (2.00), double 2.00 (2.00).
template <class T>
GRADFUSE_HD T sigmoid_within(T x) {
    constexpr int shift = Format<T>::fraction + 1;
    constexpr T c = T(1) / T(Bits<T>(1) << shift);
    T t;
    const T q = expm1_reduced(reduce(x, Format<T>::bias - shift, t)), e = power_of_two<T>(to_bits(t));
    return c / (fma(e, q, c) + e);
}
template <class T>
GRADFUSE_HD T sigmoid(T x) {
    return sigmoid_within(-min(max(x, -bounds(x).exp), bounds(x).sigmoid));
}
// sigmoid(-x). GCC makes a compare and a select, not a max, from a clamp of -x.
template <class T>
GRADFUSE_HD T sigmoid_of_minus(T x) {
    return sigmoid_within(min(max(x, -bounds(x).sigmoid), bounds(x).exp));
}

// (tanh(r) / r - 1) / z, z = r^2, |r| < 0.268.
GRADFUSE_HD float tanh_tail(float z) { return horner(z, -0.333331943f, 0.133214548f, -0.0510710329f); }
GRADFUSE_HD double tanh_tail(double z) {
    return polynomial(z, z * z, -0.33333333333331944, 0.13333333332839076, -0.053968253372909655, 0.02186945448506815,
                      -0.008862191388844988, 0.0035744494966138468, -0.0012989088175916136);
}

// |x| = n ln2 / 2 + r: with s = 2^n and h = tanh(r), ((s - 1) + (s + 1) h) / ((s + 1) + (s - 1) h). The denominator is
// the numerator + 2 - 2h, so for large |x| the errors of numerator and denominator cancel. Up to 0.267 n is 0, and the
// result is h.
// Error: float 1.75 ulp (1.68), double 1.85 (1.81).
template <class T>
GRADFUSE_HD T tanh(T x) {
    using F = Format<T>;
    const T a = min(abs(x), bounds(x).tanh), round = F::round + T(F::bias);
    const T t = fma(a, 2 * F::log2e, T(-0.27)) + round, n = t - round;
    const T r = fma(n, T(-0.5) * F::ln2_low, fma(n, T(-0.5) * F::ln2_high, a)), z = r * r;
    const T h = fma(r * z, tanh_tail(z), r), s = power_of_two<T>(to_bits(t));
    const T numerator = fma(s + 1, h, s - 1);
    return copysign(numerator / (numerator + fma(T(-2), h, T(2))), x);
}

// ---- logarithms -----------------------------------------------------------------------------------------------------

// log1p(f) - f for 1 + f in [3/4, 3/2]: f^2 P(f); in double s (s^2 P(s^2) - f), s = f / (2 + f).
GRADFUSE_HD float log1p_tail(float f) {
    return f * f *
           horner(f, -0.5f, 0.333334506f, -0.250001013f, 0.199908137f, -0.166470766f, 0.144785389f, -0.131634787f,
                  0.104670778f, -0.0450968482f);
}
GRADFUSE_HD double log1p_tail(double f) {
    const double s = f / (2 + f), u = s * s,
                 p = polynomial(u, u * u, 0.6666666666667271, 0.399999999961606, 0.2857142939543482,
                                0.22222138492163504, 0.18186356386630753, 0.15250183195742312, 0.15368227308535987);
    return s * fma(u, p, -f);
}

// log(u + c), u > 0, |c| at most half an ulp of u: u = 2^n m, f = m - 1 + c / 2^n.
template <class T>
GRADFUSE_HD T log_sum(T u, T c) {
    using F = Format<T>;
    const Bits<T> b = to_bits(u) + (F::one - F::three_quarters), e = b & F::exponent;
    const T big = power_of_two<T>(F::bias + F::fraction);  // its last bit has the value 1
    const T n = from_bits<T>((b >> F::fraction) | to_bits(big)) - (big + T(F::bias));
    const T m = from_bits<T>(to_bits(u) - e + F::one);
    const T scale = from_bits<T>(F::exponent - e);  // 2 / 2^n; unlike 1 / 2^n it is always in range
    const T f = fma(scale, T(0.5) * c, m - 1);
    return fma(n, F::ln2_high, f + fma(n, F::ln2_low, log1p_tail(f)));
}

// y with the limits at u = 0 and infinity, and NaN for u < 0.
template <class T>
GRADFUSE_HD T log_limits(T u, T y) {
    const T finite = u < inf<T> ? y : u, rest = u == 0 ? -inf<T> : nan<T>;
    return u > 0 ? finite : rest;
}

// Denormals are multiplied by 2^64 first.
// Error: float 0.96 ulp (1.00), double 0.96 (0.96).
template <class T>
GRADFUSE_HD T log(T x) {
    const bool denormal = x < power_of_two<T>(1);
    const T scaled = denormal ? x * T(0x1p64) : x, shift = denormal ? T(64 * 0x1.62e42fefa39efp-1) : T(0);
    return log_limits(x, log_sum(scaled, T(0)) - shift);
}

// log((1 + x) + the rounding error of 1 + x), over the whole domain.
// Error: float 0.96 ulp (1.00), double 1.02 (1.02).
template <class T>
GRADFUSE_HD T log1p(T x) {
    const T u = 1 + x, y = log_sum(u, x - (u - 1));
    return log_limits(u, u == 1 ? x : y);
}

// log1p for 0 <= x <= 1, without reduction: log1p_tail with a longer polynomial.
// Error: float 1.17 ulp (1.60), double 1.05 (1.30).
GRADFUSE_HD float log1p_unit(float x) {
    const float p = horner(x, -0.499999315f, 0.333304793f, -0.249582931f, 0.196940243f, -0.153517187f, 0.106747031f,
                           -0.0576095879f, 0.0201766267f, -0.00331249624f);
    return fma(x * x, p, x);
}
GRADFUSE_HD double log1p_unit(double x) {
    const double s = x / (2 + x), u = s * s,
                 p = polynomial(u, u * u, 0.6666666666666631, 0.4000000000015616, 0.2857142854796665,
                                0.22222223963690618, 0.18181744113494766, 0.15386556295616358, 0.13301017193059408,
                                0.12105767036193762, 0.08341403167788027, 0.1701630835857417);
    return fma(s, fma(u, p, -x), x);
}

// ---- the Gaussian ---------------------------------------------------------------------------------------------------

// exp(-a^2 / 2) = (1 + q) low high, where low and high are powers of two and low is a constant; returns q. Rounding a^2
// would cause an error of 50 ulp in the tail, so the multiple of ln2 is subtracted from the unrounded square.
template <class T>
GRADFUSE_HD T gauss(T a, T& low, T& high) {
    using F = Format<T>;
    const T round = F::round + T(F::bias + out_of_denormals<T>), t = fma(a * a, T(-0.5) * F::log2e, round),
            n = t - round;
#if GRADFUSE_HAS_FMA
    const T r = fma(a, T(-0.5) * a, -n * F::ln2_high);
#else
    const T top = from_bits<T>(to_bits(a) & F::high_half);
    const T r = (T(-0.5) * top * top - n * F::ln2_high) - T(0.5) * (a - top) * (a + top);
#endif
    low = power_of_two<T>(Bits<T>(F::bias - out_of_denormals<T>));
    high = power_of_two<T>(to_bits(t));
    return expm1_reduced(fma(n, -F::ln2_low, r));
}

// Phi(-a) / exp(-a^2 / 2) = 1 / (sqrt(2 pi) a + P(a) / Q(a)), all coefficients positive. A single quotient would need
// as many operations, and the errors of P and Q would affect the result more.
GRADFUSE_HD void mills_quotient(float a, float& q, float& d) {
    const float z = a * a, p = polynomial(a, z, 1.8125f, 0.829445541f, 0.207659796f, 0.0217744503f, 2.23300117e-06f);
    q = polynomial(a, z, 0.90625f, 0.827455163f, 0.356873751f, 0.0820664912f, 0.00872717518f);
    d = fma(2.50662827f * a, q, p);
}
GRADFUSE_HD float mills(float a) {
    float q, d;
    mills_quotient(a, q, d);
    return q / d;
}
GRADFUSE_HD double mills(double a) {
    const double z = a * a;
    const double p = polynomial(a, z, 1.8125, 2.2439326350115967, 1.4206903815899439, 0.5839229472587926,
                                0.1692107870700696, 0.03558559707618114, 0.005416502721025437, 0.0005760886327577313,
                                3.906206986793473e-05, 1.3018306128937452e-06);
    const double q = polynomial(a, z, 0.90625, 1.5346993712203731, 1.2854810067959765, 0.6894636603822076,
                                0.25998824111698626, 0.0717335476832744, 0.014653136603054914, 0.00219203893395239,
                                0.00023086482410556453, 1.558351122222765e-05, 5.193552734468062e-07);
    return q / fma(2.5066282746310002 * a, q, p);
}

// |x|, clamped to a bound beyond which both functions below are 0.
template <class T>
GRADFUSE_HD T gauss_argument(T x) {
    return min(abs(x), bounds(x).gauss);
}

// Phi(-a) as the product of the two functions above, which keeps its relative accuracy down to the denormals, and the
// density at a. The caller must multiply both by `scale` as the last operation. Error of Phi: float 3.63 ulp (3.89),
// double 3.96 (4.54). Error of the density: float 1.40 ulp (1.55), double 1.47 (1.64).
template <class T>
GRADFUSE_HD void normal_tail(T a, T& tail, T& density, T& scale) {
    T low;
    const T q = gauss(a, low, scale), m = mills(a) * low, d = T(0.3989422804014327) * low;
    tail = fma(m, q, m);
    density = fma(d, q, d);
}

#if GRADFUSE_HAS_APPROXIMATIONS
// The same by a GPU's approximations. The rounding errors of a^2, of its product with log2(e) and of the quotient are
// corrected.
GRADFUSE_HD void normal_tail(float a, float& tail, float& density, float& scale) {
    constexpr float c = -0.5f * Format<float>::log2e, c_rest = -0x1.4ae0cp-27f;
    const float z = a * a, power = z * c;
    const float gauss = fast_exp2(power, fma(fma(a, a, -z), c, fma(z, c_rest, fma(z, c, -power))));
    float q, d;
    mills_quotient(a, q, d);
    const float r = fast_reciprocal(d), m = q * r;
    tail = fma(fma(-d, m, q), r, m) * gauss;
    density = 0.398942280f * gauss;
    scale = 1;
}
#endif

// erf(x) / x - 1 for |x| < 1, z = x^2.
GRADFUSE_HD float erf_tail(float z) {
    return polynomial(z, z * z, 0.128379166f, -0.37612626f, 0.11283581f, -0.0268535297f, 0.00518766604f,
                      -0.000800357258f, 7.82982897e-05f);
}
GRADFUSE_HD double erf_tail(double z) {
    return polynomial(z, z * z, 0.12837916709551256, -0.37612638903183376, 0.11283791670938538, -0.026866170642219786,
                      0.005223977598839386, -0.000854832558174047, 0.00012055283223768863, -1.4924514304994744e-05,
                      1.6444700786634392e-06, -1.6187799501617115e-07, 1.3631366070383775e-08, -7.631772613876907e-10);
}

// |x| < 1: x + x P(x^2); beyond: 1 - 2 Phi(-sqrt(2) |x|).
// Error: float 1.30 ulp (1.43), double 1.31 (1.43).
template <class T>
GRADFUSE_HD T erf(T x) {
    const T a = abs(x), b = min(T(0x1.6a09e667f3bcdp0) * a, bounds(x).gauss);
    T low, high;
    const T q = gauss(b, low, high), m = mills(b) * low;
    const T near = fma(a, erf_tail(a * a), a), far = fma(-2 * high, fma(m, q, m), T(1));
    return copysign(a < 1 ? near : far, x);
}

}  // namespace math
}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
