// Shared by the headers of this folder. A row operation is a class template over the compute type with a static `info`
// and two declarations of the shape "reduce, then map", both constructed from the operation's parameters:
//   Forward   takes x
//   Backward  takes grad_out, and x or y as info.saves says
#pragma once

#include "core/backend.h"
#include "core/info.h"
#include "core/reduce_map.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// The reduction of softmax and cross-entropy: the largest element, and the sum of exp(x - largest).
template <class T>
struct Exponentials : ReduceMap<T> {
    using First = Largest<T>;
    struct Local {
        T top;
    };
    struct Sums {
        T e;
    };
    struct Record {
        double top, e;
    };

    template <class... Rest>
    GRADFUSE_HD T first(T x, Rest...) const {
        return x;
    }
    template <class Group>
    GRADFUSE_HD Local local(T top, double, const Group&, std::int64_t) const {
        return {top};
    }
    template <class Local, class... Rest>
    GRADFUSE_HD T keep(const Local& l, T x, Rest...) const {
        return math::row_exp(x - l.top);
    }
    template <class P>
    GRADFUSE_HD void add(Sums& s, Local, P, T e, T) const {
        s.e += e;
    }
    GRADFUSE_HD Record record(Local l, Sums s, double) const { return {double(l.top), double(s.e)}; }

    // The factor that changes exp(x - top) to exp(x - of_all), where of_all is the group's largest element.
    static GRADFUSE_HD double weight(double top, double of_all) {
        return top == of_all ? 1 : double(math::row_exp(T(top - of_all)));
    }
    GRADFUSE_HD void merge(Record& a, const Record& b) const {
        const double top = math::max(a.top, b.top);
        a = {top, a.e * weight(a.top, top) + b.e * weight(b.top, top)};
    }
};

// A backward that needs one sum over its row.
template <class T>
struct RowSum : ReduceMap<T> {
    struct Sums {
        T total;
    };
    struct Record {
        double total;
    };
    struct Constants {
        T total;
    };
    using Local = Empty;
    static constexpr int inputs = 2;

    GRADFUSE_HD Empty local(T, double, Empty, std::int64_t) const { return {}; }
    GRADFUSE_HD Record record(Empty, Sums s, double) const { return {double(s.total)}; }
    GRADFUSE_HD void merge(Record& a, const Record& b) const { a.total += b.total; }
    GRADFUSE_HD Constants constants(const Record& whole, Empty, Empty, std::int64_t) const { return {T(whole.total)}; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
