// Batch normalization (Ioffe and Szegedy 2015), its separate phases, and the affine without normalization. Groups are
// channels; their input numbers are weight and bias.
#pragma once

#include "formulas/batch_norm.h"
#include "formulas/norms/norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// The sums of a channel's moments are in double, because running statistics and other processes use them.
template <class T, class Base>
struct InDouble : Base {
    using Real = double;
    using typename Base::Local;
    using typename Base::Record;
    struct Sums {
        double d, dd;
    };

    using Base::Base;

    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T, T x) const {
        const double d = double(x) - double(l.center);
        s.d += d;
        s.dd = math::fma(d, d, s.dd);
    }
    GRADFUSE_HD Record record(Local l, Sums s, double n) const {
        const double rest = s.d / n, center = double(l.center);
        return {n, math::is_finite(center) ? center + rest : center, s.dd - s.d * rest};
    }
};

// Out: mean, invstd, and the biased variance.
template <class T>
struct BatchNorm : InDouble<T, Normalize<T>> {
    using Base = InDouble<T, Normalize<T>>;
    using typename Base::Group;
    using typename Base::Record;
    static constexpr int columns = 0, group_outputs = 3;

    using Base::Base;

    GRADFUSE_HD void finish(const Record& r, Group, double* out) const {
        out[0] = r.mean;
        out[1] = this->invstd(r);
        out[2] = r.squares / r.n;
    }
};

// Out: mean, invstd, and the running statistics updated by the batch.
template <class T>
struct BatchNormTraining : BatchNorm<T> {
    using typename BatchNorm<T>::Local;
    using typename BatchNorm<T>::Record;
    using Constants = typename BatchNorm<T>::Constants;
    struct Group {
        double weight, bias, running_mean, running_var;
    };
    static constexpr int group_outputs = 4;

    double momentum;
    bool unbiased;

    BatchNormTraining(double eps, double momentum, bool unbiased)
        : BatchNorm<T>(&eps), momentum(momentum), unbiased(unbiased) {}

    GRADFUSE_HD void finish(const Record& r, Group g, double* out) const {
        const ChannelMoments batch{r.n, r.mean, r.squares};
        batch.move(momentum, unbiased, g.running_mean, g.running_var);
        out[0] = batch.mean;
        out[1] = inverse_deviation(batch.variance(), this->eps);
        out[2] = g.running_mean;
        out[3] = g.running_var;
    }
    GRADFUSE_HD Constants constants(const Record& r, Local l, Group g, std::int64_t at) const {
        return BatchNorm<T>::constants(r, l, {g.weight, g.bias}, at);
    }
};

// The backward of batch normalization: dweight and dbias are sums of the group.
template <class T>
struct BatchNormBackward : NormalizeBackward<T> {
    using typename NormalizeBackward<T>::Group;
    using typename NormalizeBackward<T>::Record;
    static constexpr int columns = 0, column_sums = 0;
    using NormalizeBackward<T>::NormalizeBackward;

    // The record of n elements from their sums of dz and dz xhat.
    GRADFUSE_HD Record of_sums(double dz, double xhat, double n, Group g) const {
        return {dz, xhat / g.invstd + this->rest(g) * dz, n};
    }
};

// Out: count, mean, and sum of squared deviations.
template <class T>
struct BatchMoments : InDouble<T, Moments<T>> {
    using typename InDouble<T, Moments<T>>::Record;
    static constexpr bool maps = false;
    static constexpr int group_outputs = 3;
    struct Constants {
        T none;
    };

    GRADFUSE_HD void finish(const Record& r, Empty, double* out) const {
        out[0] = r.n;
        out[1] = r.mean;
        out[2] = r.squares;
    }
};

// Normalization by given statistics; with mean 0 and invstd 1 only the affine.
template <class T>
struct ChannelAffine : GroupMap<T> {
    struct Group {
        double mean, invstd, weight, bias;
    };
    using Constants = typename Normalize<T>::Constants;

    GRADFUSE_HD Constants constants(const typename GroupMap<T>::Record&, Empty, Group g, std::int64_t) const {
        const double statistics[] = {g.mean, g.invstd}, eps = 0;
        return Normalize<T>(&eps).saved(statistics, {g.weight, g.bias});
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T x) const {
        return {(x - c.center) * c.scale + c.shift};
    }
};

// The backward of ChannelAffine: the statistics are constants.
template <class T>
struct ChannelAffineBackward : NormalizeBackward<T> {
    using typename NormalizeBackward<T>::Group;
    using typename NormalizeBackward<T>::Local;
    using typename NormalizeBackward<T>::Record;
    struct Constants {
        T scale;
    };
    static constexpr bool waits = false;
    static constexpr int columns = 0, column_sums = 0;

    using NormalizeBackward<T>::NormalizeBackward;

    GRADFUSE_HD Constants constants(const Record&, Local, Group g, std::int64_t) const {
        return {T(g.invstd * g.weight)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T dy, T) const {
        return {c.scale * dy};
    }
};

// Out: sum(dy xhat), sum(dy).
template <class T>
struct BatchNormSums : NormalizeBackward<T> {
    static constexpr bool maps = false;
    static constexpr int columns = 0, column_sums = 0;
    using NormalizeBackward<T>::NormalizeBackward;
};

// dx of a part of a batch, from the means of dz xhat and of dz over the whole batch.
template <class T>
struct BatchNormFinish : GroupMap<T> {
    struct Group {
        double mean, invstd, weight, bias, xhat, dz;
    };
    using Backward = BatchNormBackward<T>;
    using Constants = typename Backward::Constants;
    static constexpr int inputs = 2;

    GRADFUSE_HD Constants constants(const typename GroupMap<T>::Record&, Empty, Group g, std::int64_t) const {
        const typename Backward::Group group{g.mean, g.invstd, g.weight, g.bias};
        const Backward f(nullptr);
        return f.constants(f.of_sums(g.dz, g.xhat, 1, group), {}, group, 0);
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T dy, T x) const {
        return {c.scale * dy + (c.slope * (x - c.center) + c.offset)};
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
