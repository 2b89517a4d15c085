#pragma once

#include "formulas/norms/norm.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <class T>
struct RmsNorm {
    static constexpr NormInfo info{
        "rms_norm",
        Groups::rows,
        "x / sqrt(mean(x^2) + eps) * weight",
        "Zhang and Sennrich 2019; torch.nn.functional.rms_norm",
        false,
        {{"eps", Kind::optional, machine_epsilon, 0, at_least_zero}, {"unit_offset", Kind::flag, 0}}};

    struct Record {
        double sum, n;
    };
    struct Sums {
        double sum;
    };
    enum { eps_, unit_offset_ };

    // Out: 1 / sqrt(mean(x^2) + eps).
    struct Forward : ReduceMap<T> {
        using Real = double;  // squares of floats are exact in double, and never overflow
        using Sums = RmsNorm::Sums;
        using Record = RmsNorm::Record;
        using Local = Empty;
        struct Constants {
            T scale;
        };
        static constexpr int columns = 1, group_outputs = 1;

        double eps;
        T unit;

        explicit Forward(const double* p) : eps(p[eps_]), unit(T(p[unit_offset_])) {}

        GRADFUSE_HD Empty local(T, double, Empty, std::int64_t) const { return {}; }
        template <class P>
        GRADFUSE_HD void add(Sums& s, Empty, P, T, T x) const {
            s.sum = math::fma(double(x), double(x), s.sum);
        }
        GRADFUSE_HD Record record(Empty, Sums s, double n) const { return {s.sum, n}; }
        GRADFUSE_HD void merge(Record& a, const Record& b) const { a = {a.sum + b.sum, a.n + b.n}; }
        GRADFUSE_HD double inverse(const Record& r) const { return 1 / math::sqrt(r.sum / r.n + eps); }
        GRADFUSE_HD void finish(const Record& r, Empty, double* out) const { out[0] = inverse(r); }
        GRADFUSE_HD Constants saved(const double* statistics, Empty) const { return {T(statistics[0])}; }
        GRADFUSE_HD Constants constants(const Record& r, Empty, Empty, std::int64_t) const { return {T(inverse(r))}; }
        GRADFUSE_HD T no_weight() const { return 1 - unit; }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T x) const {
            return {x * c.scale};
        }
        template <class P>
        GRADFUSE_HD Values<T, 1> map(Constants c, P, T x, T w) const {
            return {x * c.scale * (w + unit)};
        }
    };

    // With w = weight + unit, or 1 without a weight, and r the saved inverse: dx = r (dy w - x r^2 mean(dy w x)),
    // dweight = sum(dy x r).
    struct Backward : ReduceMap<T> {
        using Real = double;
        using Sums = RmsNorm::Sums;
        using Record = RmsNorm::Record;
        using Local = Empty;
        struct Group {
            double inverse;
        };
        struct Constants {
            T inverse, slope;
        };
        static constexpr int inputs = 2, columns = 1, column_sums = 1;
        static constexpr bool adds_columns = true;

        T unit;

        explicit Backward(const double* p) : unit(T(p[unit_offset_])) {}

        GRADFUSE_HD Empty local(T, double, Group, std::int64_t) const { return {}; }
        template <class P>
        GRADFUSE_HD void add(Sums& s, Empty, P, T, T dy, T x) const {
            s.sum = math::fma(double(dy), double(x), s.sum);
        }
        template <class P>
        GRADFUSE_HD void add(Sums& s, Empty l, P p, T e, T dy, T x, T w) const {
            add(s, l, p, e, dy * (w + unit), x);
        }
        GRADFUSE_HD Record record(Empty, Sums s, double n) const { return {s.sum, n}; }
        GRADFUSE_HD void merge(Record& a, const Record& b) const { a = {a.sum + b.sum, a.n + b.n}; }
        GRADFUSE_HD Constants constants(const Record& r, Empty, Group g, std::int64_t) const {
            return {T(g.inverse), T(-g.inverse * g.inverse * g.inverse * r.sum / r.n)};
        }
        template <class P>
        GRADFUSE_HD Values<T, 2> map(Constants c, P, T dy, T x) const {
            return {c.inverse * dy + c.slope * x, dy * (x * c.inverse)};
        }
        template <class P>
        GRADFUSE_HD Values<T, 2> map(Constants c, P, T dy, T x, T w) const {
            return {c.inverse * (dy * (w + unit)) + c.slope * x, dy * (x * c.inverse)};
        }
    };
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
