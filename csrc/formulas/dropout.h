// Dropout's constants, on the host and in double. See core/philox.h for the mask.
#pragma once

#include <cmath>

#include "core/backend.h"

namespace gradfuse {

// Elements whose half-word, of 65536 values, is below the threshold are dropped. So p is rounded to a multiple of
// 1 / 65536; the constants are computed from the rounded p.
inline std::uint32_t dropout_threshold(double p) { return std::uint32_t(std::floor(p * 65536 + 0.5)); }

inline Dropout plain_dropout(double p) {
    Dropout d;
    d.threshold = dropout_threshold(p);
    d.scale = d.threshold == 65536 ? 0 : 65536.0 / (65536 - d.threshold);
    return d;
}

// Klambauer et al. 2017: dropped elements get SELU's limit at -inf, and the affine a x + b restores mean and variance.
inline Dropout alpha_dropout(double p) {
    constexpr double limit = -1.7580993408473766;
    Dropout d;
    d.threshold = dropout_threshold(p);
    if (d.threshold == 0 || d.threshold == 65536) return d;
    const double q = d.threshold / 65536.0, a = 1 / std::sqrt((1 - q) * (1 + q * limit * limit)), b = -a * q * limit;
    d.scale = a;
    d.shift = b;
    d.dropped = a * limit + b;
    return d;
}

inline Dropout alpha_dropout_gradient(double p) {
    Dropout d = alpha_dropout(p);
    d.shift = d.dropped = 0;
    return d;
}

}  // namespace gradfuse
