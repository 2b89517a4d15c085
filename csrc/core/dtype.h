// Storage types and their conversion. Formulas only see float and double; half types are converted at load and store.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/array.h"
#include "core/config.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class To, class From>
GRADFUSE_HD To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

struct Half {
    std::uint16_t bits;
};
struct BFloat16 {
    std::uint16_t bits;
};

GRADFUSE_HD float to_float(BFloat16 h) { return bit_cast<float>(std::uint32_t(h.bits) << 16); }

GRADFUSE_HD float to_float(Half h) {
#if defined(__CUDA_ARCH__)
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h.bits));
    return x;
#else
    // The bits of a half, shifted and read as a float, are its value times 2^-112. One multiplication corrects the
    // exponent, also of denormals.
    const std::uint32_t magnitude = std::uint32_t(h.bits & 0x7fff) << 13;
    const std::uint32_t scaled = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
    const std::uint32_t finite_or_not = (h.bits & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000u : scaled;
    return bit_cast<float>(finite_or_not | std::uint32_t(h.bits & 0x8000) << 16);
#endif
}

// Round to nearest, ties to even; a NaN stays a quiet NaN.
GRADFUSE_HD BFloat16 to_bfloat16(float x) {
#if defined(__CUDA_ARCH__)
    BFloat16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
    return h;
#else
    const std::uint32_t u = bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return {std::uint16_t(x != x ? (u >> 16) | 0x40 : rounded)};
#endif
}

GRADFUSE_HD Half to_half(float x) {
#if defined(__CUDA_ARCH__)
    Half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
    return h;
#else
    const std::uint32_t u = bit_cast<std::uint32_t>(x), sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
    // Below 2^-14 the half is denormal: after adding 0.5 the low bits of the sum are its correctly rounded bits.
    const std::uint32_t denormal = bit_cast<std::uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    std::uint32_t h = magnitude < 0x38800000u ? denormal : normal;
    h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // 65520 and more round to infinity
    h = magnitude > 0x7f800000u ? 0x7e00u : h;
    return {std::uint16_t(h | sign)};
#endif
}

template <class S>
struct Storage {  // float and double are stored unchanged
    template <class T>
    static GRADFUSE_HD T load(S s) {
        return T(s);
    }
    template <class T>
    static GRADFUSE_HD S store(T x) {
        return S(x);
    }
};
template <>
struct Storage<Half> {
    template <class T>
    static GRADFUSE_HD T load(Half h) {
        return T(to_float(h));
    }
    template <class T>
    static GRADFUSE_HD Half store(T x) {
        return to_half(float(x));
    }
};
template <>
struct Storage<BFloat16> {
    template <class T>
    static GRADFUSE_HD T load(BFloat16 h) {
        return T(to_float(h));
    }
    template <class T>
    static GRADFUSE_HD BFloat16 store(T x) {
        return to_bfloat16(float(x));
    }
};

// Calls f with a value of the storage type for `dtype`.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // if f is a host function, this is one too
#endif
template <class F>
GRADFUSE_HD void with_storage(DType dtype, F&& f) {
    switch (dtype) {
        case DType::f16:
            return f(Half{});
        case DType::bf16:
            return f(BFloat16{});
        case DType::f32:
            return f(float{});
        default:
            return f(double{});
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
