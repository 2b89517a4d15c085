// The shape of work "reduce, then map": each group of elements is reduced to a few numbers. Constants are computed from
// these numbers, and then every element of the group is mapped with the constants. A declaration is a struct derived
// from ReduceMap (see formulas/rows and formulas/norms). Each device has one loop that runs all declarations.
//
// A loop divides every group into parts: tiles on the CPU, warps on a GPU. The division depends only on the group's
// length. For each part:
//
//   center    = First::join of first(x...)        optional first reduction, in T: the part's maximum or mean
//   local     = local(center, count, group, at)   constants of the part; `at` is the position of its first element
//   kept      = keep(local, x...)                 optional: a value per element that the map uses instead of the inputs
//   sums     += add(sums, local, i, kept, x...)   second reduction; every member of `Sums` is a plain sum
//   record    = record(local, sums, count)        in double from here on
//
// merge(record, record) merges neighboring parts, in order, into the record of the whole group. Then
//
//   finish(whole, group, out)                     the group's outputs: a loss, a mean
//   constants = constants(whole, local, group, at) per part, because `kept` depends on the part's own center
//   y         = map(constants, i, kept or x...)   the output, then the terms of the column sums
//
// Records are what the threads of a block exchange, what the CPU merges after one pass over memory, and what several
// processes send each other. Chan's formula for moments and the online softmax are examples of a merge.
//
// Rules that let GCC vectorize the loops:
// - Local and Constants have only members of type T, Sums of type Real, Group and Record of type double, each at most 6
//   members: a loop over neighboring groups in lanes keeps each member as an array of lanes.
// - `i`, the position within the part, has a type P that the loop chooses. On the CPU it is T: lanes of the same width
//   are compared without conversion (parts are short, so T is exact). On a GPU it is int: a conversion costs as much as
//   an exp.
// - No branch on data: use ?:, with both sides computed.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "core/array.h"
#include "core/math.h"

namespace gradfuse {

// How the elements of a dense array form groups: element i of run r of group g of block b has the index
// b * block_stride + g * group_stride + r * run_stride + i in C order. Group numbers continue from block to block.
struct Grouping {
    std::int64_t blocks, groups, runs, run;
    std::int64_t block_stride, group_stride, run_stride;
    std::int64_t members = 1;  // this many neighboring groups are members of one: they share its record and its numbers

    std::int64_t length() const { return runs * run; }  // elements of a group, or of a member of one
    std::int64_t count() const { return blocks * groups; }
    bool across() const { return run == 1 && runs > 1 && group_stride == 1; }  // neighboring groups lie side by side
};

// The groups are the rows along one axis. The division of a group into parts depends on whether the axis is the last
// one, but not on the number of groups, so neither do the bits of a row's result.
inline Grouping rows_of(const ChannelShape& s, bool last) {
    if (last) return {1, s.outer, 1, s.channels, 0, s.channels, s.channels};
    return {s.outer, s.inner, s.channels, 1, s.channels * s.inner, 1, s.inner};
}
// The groups are the channels: as runs of memory or, if the runs are short, column by column.
inline Grouping channels_of(const ChannelShape& s, std::int64_t long_run = 64) {
    const std::int64_t stride = s.channels * s.inner;
    if (s.inner >= long_run || s.outer == 1) return {1, s.channels, s.outer, s.inner, 0, s.inner, stride};
    return {1, stride, s.outer, 1, 0, 1, stride, s.inner};
}

// An input number per group. If `mod` is not 0, the groups g, g + mod, g + 2 mod ... share one number.
struct GroupNumbers {
    const Array* array = nullptr;  // absent: every group has the value `otherwise`
    double otherwise = 0;
    std::int64_t mod = 0;

    std::int64_t index(std::int64_t g) const { return mod ? g % mod : g; }
};

// The arrays of one call; absent arrays are null. An output may be an input (the same address for each element).
struct ReduceMapArrays {
    static constexpr int most = 6;
    const Array *in[2] = {}, *out = nullptr;
    const Array* column[2] = {};  // per position in the group, or per run: weight and bias
    bool column_per_run = false;
    std::int64_t periods = 1;  // the columns have `periods` sets of values, one after the other; group g: g % periods
    GroupNumbers group_in[most];
    const Array* group_out[4] = {};   // per group
    const Array* column_sum[2] = {};  // the same form as the columns
};

inline namespace GRADFUSE_ISA {

template <class T, int N>
struct Values {
    T v[N];
};

// First reductions.
template <class T>
struct Largest {
    static constexpr T start = -std::numeric_limits<T>::max();  // not -inf, so that (-inf) - start is not NaN
    template <class V>                                          // T, or a vector of T
    static GRADFUSE_HD V join(const V& a, const V& b) {
        return a < b ? b : a;
    }
};
template <class T>
struct Total {
    static constexpr T start = 0;
    template <class V>
    static GRADFUSE_HD V join(const V& a, const V& b) {
        return a + b;
    }
};

struct Empty {};

// Defaults: no first reduction, no numbers per group, nothing kept, no columns.
template <class T_>
struct ReduceMap {
    using T = T_;
    using Real = T_;  // the type of the second reduction's sums within a part
    using First = void;
    using Group = Empty;                  // input numbers of a group: a label, a mean, a channel's weight
    static constexpr bool picks = false;  // the first member of Group is a position; the loop sets the second to input
                                          // 0 at this position, the third to column 0 there (1 if there is no column)
    static constexpr int inputs = 1;      // arrays with a value per element: x, dy
    static constexpr int columns = 0;     // arrays with a value per position in the group: weight, bias
    static constexpr bool adds_columns = false;     // add gets the columns too; map always does
    static constexpr bool columns_per_run = false;  // columns may have one value per run of a group. A run's record is
                                                    // then made without them: weighed(record, w) is merged into the
                                                    // group's record, column_sums_of(record, group) are the run's
                                                    // column sums, and elements of zero add nothing to its sums
    static constexpr int group_outputs = 0;
    static constexpr int column_sums = 0;  // the number of values that map returns after the output
    static constexpr bool keeps = false;   // map gets the value that keep returned instead of the inputs
    static constexpr bool reduces = true;  // false: no group is read before it is mapped
    static constexpr bool maps = true;     // false: only the numbers of the groups are needed
    static constexpr bool waits = true;    // false: the constants need no record of the whole group

    template <class Local, class... X>
    GRADFUSE_HD T keep(const Local&, X...) const {
        return 0;
    }
    template <class Record, class Group>
    GRADFUSE_HD void finish(const Record&, const Group&, double*) const {}
};

// A map whose constants depend only on the input numbers of the group.
template <class T>
struct GroupMap : ReduceMap<T> {
    struct Sums {
        T none;
    };
    struct Record {
        double none;
    };
    using Local = Empty;
    static constexpr bool reduces = false, waits = false;

    template <class Group>
    GRADFUSE_HD Empty local(T, double, const Group&, std::int64_t) const {
        return {};
    }
    template <class... Any>
    GRADFUSE_HD void add(const Any&...) const {}
    GRADFUSE_HD Record record(Empty, Sums, double) const { return {0}; }
    GRADFUSE_HD void merge(Record&, const Record&) const {}
};

// The number of members of type T of a struct; `make` makes the struct from values, `take` reads its members.
template <class S, class T>
constexpr int members = std::is_empty_v<S> ? 0 : int(sizeof(S) / sizeof(T));

template <class S, class At, std::size_t... I>
GRADFUSE_HD S make(const At& at, std::index_sequence<I...>) {
    return S{at(int(I))...};
}
template <class S, class T, class At>
GRADFUSE_HD S make(const At& at) {
    return make<S>(at, std::make_index_sequence<members<S, T>>());
}
template <class T, class S, class To>
GRADFUSE_HD void take(const S& s, const To& to) {  // to(k, value)
    constexpr int n = members<S, T>;
    static_assert(n <= 6);
    if constexpr (n == 1) {
        const auto& [a] = s;
        to(0, a);
    } else if constexpr (n == 2) {
        const auto& [a, b] = s;
        to(0, a), to(1, b);
    } else if constexpr (n == 3) {
        const auto& [a, b, c] = s;
        to(0, a), to(1, b), to(2, c);
    } else if constexpr (n == 4) {
        const auto& [a, b, c, d] = s;
        to(0, a), to(1, b), to(2, c), to(3, d);
    } else if constexpr (n == 5) {
        const auto& [a, b, c, d, e] = s;
        to(0, a), to(1, b), to(2, c), to(3, d), to(4, e);
    } else if constexpr (n == 6) {
        const auto& [a, b, c, d, e, f] = s;
        to(0, a), to(1, b), to(2, c), to(3, d), to(4, e), to(5, f);
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
