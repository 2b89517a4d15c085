// Shared by the headers of this folder. A normalization is a class template over the compute type with a static `info`
// and two declarations of the shape "reduce, then map", both constructed from the operation's parameters:
//   Forward   takes x; its Group, if it has one, is {weight, bias}; its group outputs are the statistics for the
//   backward Backward  takes grad_out and x; its Group is the statistics, then the forward's Group
// Forward::saved(statistics, group) gives the constants of the forward's map from the statistics.
// The affine is per position in the group (columns) or per group; this depends on the grouping of the operation.
#pragma once

#include "core/info.h"
#include "core/reduce_map.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Mean and sum of squared deviations: first from the mean of each part, then merged (Chan, Golub and LeVeque 1979).
template <class T>
struct Moments : ReduceMap<T> {
    using First = Total<T>;
    struct Local {
        T center;
    };
    struct Sums {
        T d, dd;
    };
    struct Record {
        double n, mean, squares;
    };

    GRADFUSE_HD T first(T x) const { return x; }
    template <class Group>
    GRADFUSE_HD Local local(T sum, double n, const Group&, std::int64_t) const {
        return {T(sum / n)};
    }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T, T x) const {
        const T d = x - l.center;
        s.d += d;
        s.dd = math::fma(d, d, s.dd);
    }
    GRADFUSE_HD Record record(Local l, Sums s, double n) const {
        const double rest = double(s.d) / n;  // the rounding error of the part's mean
        return {n, double(l.center) + rest, double(s.dd) - double(s.d) * rest};
    }
    GRADFUSE_HD void merge(Record& a, const Record& b) const {
        const double n = a.n + b.n, delta = b.mean - a.mean, part = b.n / n;
        const double mean = math::is_finite(delta) ? a.mean + delta * part : a.mean + b.mean;  // keeps an infinity
        a = {n, mean, a.squares + b.squares + delta * delta * (a.n * part)};
    }
};

// y = (x - mean) invstd weight + bias. Out: mean, invstd.
template <class T>
struct Normalize : Moments<T> {
    using typename Moments<T>::Local;
    using typename Moments<T>::Record;
    struct Group {
        double weight, bias;
    };
    struct Constants {
        T center, scale, shift;
    };
    static constexpr int columns = 2, group_outputs = 2;
    static constexpr bool columns_per_run = true;

    double eps;

    explicit GRADFUSE_HD Normalize(const double* p) : eps(p[0]) {}

    GRADFUSE_HD double invstd(const Record& r) const { return 1 / math::sqrt(r.squares / r.n + eps); }
    GRADFUSE_HD void finish(const Record& r, Group, double* out) const {
        out[0] = r.mean;
        out[1] = invstd(r);
    }
    // The constants for given statistics. The shift corrects the rounding of the mean to T.
    GRADFUSE_HD Constants saved(const double* statistics, Group g) const {
        const double mean = statistics[0], scale = statistics[1] * g.weight;
        return {T(mean), T(scale), T(g.bias - (mean - double(T(mean))) * scale)};
    }
    GRADFUSE_HD Constants constants(const Record& r, Local, Group g, std::int64_t) const {
        const double statistics[] = {r.mean, invstd(r)};
        return saved(statistics, g);
    }
    GRADFUSE_HD T no_weight() const { return 1; }  // used if there is a bias but no weight
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T x, T w = 1, T b = T(-0.0)) const {
        return {((x - c.center) * c.scale + c.shift) * w + b};
    }
};

// dx = invstd weight (dy - mean(dy) - xhat mean(dy xhat)), xhat = (x - mean) invstd; dweight = sum(dy xhat), dbias =
// sum(dy): of the group, or of the columns.
template <class T>
struct NormalizeBackward : ReduceMap<T> {
    using Real = double;  // the terms cancel
    struct Group {
        double mean, invstd, weight, bias;
    };
    struct Local {
        T center;
    };
    struct Sums {
        double g, gd;
    };
    struct Record {
        double g, gd, n;
    };
    struct Constants {
        T center, scale, slope, offset, invstd, rest;
    };
    static constexpr int inputs = 2, columns = 1, group_outputs = 2, column_sums = 2;
    static constexpr bool adds_columns = true, columns_per_run = true;

    explicit GRADFUSE_HD NormalizeBackward(const double*) {}

    GRADFUSE_HD Local local(T, double, Group g, std::int64_t) const { return {T(g.mean)}; }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Local l, P, T, T dy, T x, T w = 1) const {
        const T g = dy * w;
        s.g += double(g);
        s.gd = math::fma(double(g), double(x - l.center), s.gd);
    }
    GRADFUSE_HD Record record(Local, Sums s, double n) const { return {s.g, s.gd, n}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { a = {a.g + b.g, a.gd + b.gd, a.n + b.n}; }
    GRADFUSE_HD double rest(Group g) const { return g.mean - double(T(g.mean)); }
    GRADFUSE_HD double dweight(const Record& r, Group g) const { return (r.gd - rest(g) * r.g) * g.invstd; }
    GRADFUSE_HD void finish(const Record& r, Group g, double* out) const {
        out[0] = dweight(r, g);
        out[1] = r.g;
    }
    GRADFUSE_HD Values<double, 2> column_sums_of(const Record& r, Group g) const { return {dweight(r, g), r.g}; }
    GRADFUSE_HD Record weighed(const Record& r, double w) const { return {w * r.g, w * r.gd, r.n}; }
    GRADFUSE_HD Constants constants(const Record& r, Local, Group g, std::int64_t) const {
        const double scale = g.invstd * g.weight, slope = -scale * g.invstd * dweight(r, g) / r.n;
        return {T(g.mean),   T(scale),
                T(slope),    T(-scale * r.g / r.n - slope * rest(g)),
                T(g.invstd), T(-rest(g) * g.invstd)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 3> map(Constants c, P, T dy, T x, T w = 1) const {
        const T d = x - c.center;
        return {c.scale * (dy * w) + (c.slope * d + c.offset), dy * (d * c.invstd + c.rest), dy};
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
