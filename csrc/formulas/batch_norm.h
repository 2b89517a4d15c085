// Batch normalization (Ioffe and Szegedy 2015): the numbers of one channel, in double. The loops over elements use them
// rounded to the compute type.
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
        mean = std::isfinite(delta) ? mean + delta * (b.count / n) : mean + b.mean;  // an infinity stays one
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

// Two sums over a channel: of a, and of a * (v - centre).
struct Sums {
    double a = 0, av = 0;

    GRADFUSE_HD void merge(const Sums& b) {
        a += b.a;
        av += b.av;
    }
};

// The constants of a channel's elements. Forward: z = scale * (v - centre) + shift.
// Backward: dv = scale * dz + slope * (v - centre) + offset.
enum Constant { centre, scale_, shift, slope, offset };

struct Channel {
    double mean = 0, invstd = 1, weight = 1, bias = 0;

    // The mean's rounding to T is made good in the shift.
    template <class T>
    GRADFUSE_HD void forward_constants(T* value) const {
        const double scale = invstd * weight;
        value[centre] = T(mean);
        value[scale_] = T(scale);
        value[shift] = T(bias - (mean - double(value[centre])) * scale);
    }

    // Sum of dz * (v - mean) * invstd, from the sums of dz and dz * (v - centre).
    template <class T>
    GRADFUSE_HD double dweight(const Sums& dz) const {
        return (dz.av - (mean - double(T(mean))) * dz.a) * invstd;
    }

    // dv = scale * (dz - mean(dz) - vhat * mean(dz * vhat)) over n elements.
    template <class T>
    GRADFUSE_HD void backward_constants(const Sums& dz, double n, T* value) const {
        forward_constants(value);
        const double scale = invstd * weight, per_v = -scale * invstd * dweight<T>(dz) / n;
        value[slope] = T(per_v);
        value[offset] = T(-scale * dz.a / n - per_v * (mean - double(value[centre])));
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
