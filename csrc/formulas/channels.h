// Operations on channels other than normalization: PReLU and the max-norm constraint.
#pragma once

#include "core/reduce_map.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// y = x > 0 ? x : weight x
template <class T>
struct PRelu : GroupMap<T> {
    struct Group {
        double weight;
    };
    struct Constants {
        T slope;
    };

    GRADFUSE_HD Constants constants(const typename GroupMap<T>::Record&, Empty, Group g, std::int64_t) const {
        return {T(g.weight)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T x) const {
        const T scaled = c.slope * x;
        return {x > 0 ? x : scaled};
    }
};

// Out: dweight = sum(dy min(x, 0)).
template <class T>
struct PReluBackward : ReduceMap<T> {
    using Real = double;
    using Local = Empty;
    struct Group {
        double weight;
    };
    struct Sums {
        double dweight;
    };
    struct Record {
        double dweight;
    };
    struct Constants {
        T slope;
    };
    static constexpr int inputs = 2, group_outputs = 1;
    static constexpr bool waits = false;

    GRADFUSE_HD Empty local(T, double, Group, std::int64_t) const { return {}; }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Empty, P, T, T dy, T x) const {
        const T product = dy * x;
        s.dweight += double(x >= 0 ? T(0) : product);
    }
    GRADFUSE_HD Record record(Empty, Sums s, double) const { return {s.dweight}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { a.dweight += b.dweight; }
    GRADFUSE_HD void finish(const Record& r, Group, double* out) const { out[0] = r.dweight; }
    GRADFUSE_HD Constants constants(const Record&, Empty, Group g, std::int64_t) const { return {T(g.weight)}; }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T dy, T x) const {
        const T scaled = c.slope * dy;
        return {x > 0 ? dy : scaled};
    }
};

// Scales groups whose norm is above the limit down to the limit.
template <class T>
struct MaxNorm : ReduceMap<T> {
    using Real = double;
    using Local = Empty;
    struct Sums {
        double squares;
    };
    struct Record {
        double squares;
    };
    struct Constants {
        T factor;
    };

    double limit;

    explicit MaxNorm(double limit) : limit(limit) {}

    GRADFUSE_HD Empty local(T, double, Empty, std::int64_t) const { return {}; }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Empty, P, T, T x) const {
        s.squares = math::fma(double(x), double(x), s.squares);
    }
    GRADFUSE_HD Record record(Empty, Sums s, double) const { return {s.squares}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { a.squares += b.squares; }
    GRADFUSE_HD Constants constants(const Record& r, Empty, Empty, std::int64_t) const {
        const double norm = math::sqrt(r.squares);
        return {norm > limit ? T(limit / norm) : T(1)};
    }
    template <class P>
    GRADFUSE_HD Values<T, 1> map(Constants c, P, T x) const {
        return {x * c.factor};
    }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
