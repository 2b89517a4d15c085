// The moments of a channel. The channel may have no elements.
#pragma once

#include <cmath>

#include "core/config.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Count, mean and sum of squared deviations of a sample.
struct ChannelMoments {
    double count = 0, mean = 0, squares = 0;

    // Chan, Golub and LeVeque 1979.
    GRADFUSE_HD void merge(const ChannelMoments& b) {
        if (b.count == 0) return;
        if (count == 0) {
            *this = b;
            return;
        }
        const double n = count + b.count, delta = b.mean - mean;
        mean = std::isfinite(delta) ? mean + delta * (b.count / n) : mean + b.mean;  // keeps an infinity
        squares += b.squares + delta * delta * (count * b.count / n);
        count = n;
    }
    GRADFUSE_HD double variance() const { return count > 0 ? squares / count : 0; }

    // running = (1 - momentum) * running + momentum * batch
    GRADFUSE_HD void move(double momentum, bool unbiased, double& running_mean, double& running_var) const {
        if (count == 0) return;
        const double correction = unbiased ? count / (count - 1) : 1;
        running_mean += momentum * (mean - running_mean);
        running_var += momentum * (variance() * correction - running_var);
    }
};

GRADFUSE_HD double inverse_deviation(double variance, double eps) { return 1 / std::sqrt(variance + eps); }

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
