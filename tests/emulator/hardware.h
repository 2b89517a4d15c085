// The approximations of a GPU, with the largest errors that the PTX manual allows. Included before every file of
// kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define GRADFUSE_EMULATED 1

namespace emulator {

// A number in [-1, 1] that depends only on x.
inline double noise(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits *= 0x9e3779b1u;
    bits ^= bits >> 15;
    bits *= 0x85ebca77u;
    return double(std::int32_t(bits)) / 2147483648.0;
}

// ex2.approx: 2^x with a relative error of 2^-22.5.
inline float fast_exp2(float x) {
    return x == 0 ? 1.0f : float(std::exp2(double(x)) * (1 + noise(x) * 0x1.6a09e6p-23));
}
// rcp.approx.ftz: 1 / x with an error of 1 ulp, none for powers of two; denormal numbers are zeros.
inline float fast_reciprocal(float x) {
    const auto flushed = [](float v) { return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v; };
    int exponent;
    const bool power_of_two = std::fabs(std::frexp(x, &exponent)) == 0.5f;
    return flushed(float(1 / double(flushed(x)) * (power_of_two ? 1 : 1 + noise(x) * 0x1p-24)));
}

}  // namespace emulator
