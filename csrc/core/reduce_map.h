// The shape of work "reduce, then map": groups of elements are reduced to a few numbers, from these come constants, and
// with these every element of the group is mapped. A declaration is a struct derived from ReduceMap (formulas/rows and
// formulas/norms have them). Each device has one loop that runs them all.
//
// A loop cuts every group into parts, by the group's length alone: tiles on the CPU, warps on a GPU. Of each part:
//
//   center    = First::join of first(x...)        optional first reduction, in T: the part's maximum or mean
//   local     = local(center, count, group, at)   constants of the part; `at` is the position of its first element
//   kept      = keep(local, x...)                 optional: what the map needs of an element, in place of its inputs
//   sums     += add(sums, local, i, kept, x...)   second reduction; every member of `Sums` is a plain sum
//   record    = record(local, sums, count)        in double from here on
//
// merge(record, record) joins neighboring parts, in order, to the record of the whole group. Then
//
//   finish(whole, group, out)                     numbers of the group that go out: a loss, a mean
//   constants = constants(whole, local, group, at) per part, because `kept` was made with the part's own center
//   y         = map(constants, i, kept or x...)   the output, then the terms of the column sums
//
// One merge of records is one exchange between the threads of a block, one pass over memory on the CPU, and what
// several processes send each other. Chan's formula for moments and the online softmax are two such merges.
//
// Rules that let GCC vectorize the loops:
// - Local and Constants have members of type T alone, Sums of type Real, Group and Record of type double, at most 6: a
// loop
//   that takes neighboring groups side by side keeps each member as an array of lanes.
// - `i`, the position within the part, is of a type P that the loop chooses: T on the CPU, where lanes of one width
//   compare without conversion (exact, as parts are short); int on a GPU, where a conversion costs as much as an exp.
// - No branch on data: choose with ?:, both sides computed.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

#include "core/array.h"
#include "core/math.h"

namespace gradfuse {

// How the elements of a dense array make groups: element i of run r of group g of block b is
// b * block_stride + g * group_stride + r * run_stride + i in C order. Groups are numbered through the blocks.
struct Grouping {
    std::int64_t blocks, groups, runs, run;
    std::int64_t block_stride, group_stride, run_stride;
    std::int64_t members = 1;  // so many neighboring groups make one: they share its record and its numbers

    std::int64_t length() const { return runs * run; }  // elements of a group, or of a member
    std::int64_t count() const { return blocks * groups; }
    bool across() const { return run == 1 && runs > 1 && group_stride == 1; }  // neighboring groups lie side by side
};

// The groups are what is left when an axis is reduced. Whether it is the last one decides how a group is cut, not how
// many groups there are beside it: a row's bits do not depend on that.
inline Grouping rows_of(const ChannelShape& s, bool last) {
    if (last) return {1, s.outer, 1, s.channels, 0, s.channels, s.channels};
    return {s.outer, s.inner, s.channels, 1, s.channels * s.inner, 1, s.inner};
}
// The groups are the channels: in runs of memory, or, where those would be short, column by column.
inline Grouping channels_of(const ChannelShape& s, std::int64_t long_run = 64) {
    const std::int64_t stride = s.channels * s.inner;
    if (s.inner >= long_run || s.outer == 1) return {1, s.channels, s.outer, s.inner, 0, s.inner, stride};
    return {1, stride, s.outer, 1, 0, 1, stride, s.inner};
}

// A number of every group that comes in. Groups g, g + mod, g + 2 mod ... share one where `mod` is not 0.
struct GroupNumbers {
    const Array* array = nullptr;  // absent: all have the value `otherwise`
    double otherwise = 0;
    std::int64_t mod = 0;

    std::int64_t index(std::int64_t g) const { return mod ? g % mod : g; }
};

// The arrays of one call; what is absent is null. Outputs may be inputs, element on element.
struct ReduceMapArrays {
    static constexpr int most = 6;
    const Array *in[2] = {}, *out = nullptr;
    const Array* column[2] = {};  // per position in the group, or per run: weight and bias
    bool column_per_run = false;
    std::int64_t periods = 1;  // of the columns: group g takes those of g % periods, one after another
    GroupNumbers group_in[most];
    const Array* group_out[4] = {};   // per group
    const Array* column_sum[2] = {};  // as the columns
};

inline namespace GRADFUSE_ISA {

template <class T, int N>
struct Values {
    T v[N];
};

// First reductions.
template <class T>
struct Largest {
    static constexpr T start = -std::numeric_limits<T>::max();  // not -inf: (-inf) - start is no NaN
    template <class V>                                          // of T, or a vector of them
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
    using Real = T_;  // what the second reduction adds up in, within a part
    using First = void;
    using Group = Empty;                  // numbers of a group that come in: a label, a mean, a channel's weight
    static constexpr bool picks = false;  // its second member is input 0 at the position that the first one names,
                                          // its third column 0 there (1 where there is none)
    static constexpr int inputs = 1;      // arrays with a value per element: x, dy
    static constexpr int columns = 0;     // arrays with a value per position in the group: weight, bias
    static constexpr bool adds_columns = false;     // add is given them too; map always is
    static constexpr bool columns_per_run = false;  // they may have one value for each run of a group. A run's record
                                                    // is then made without them: weighed(record, w) is what it adds to
                                                    // the group's, column_sums_of(record, group) are its column sums,
                                                    // and elements of zero add nothing to its sums
    static constexpr int group_outputs = 0;
    static constexpr int column_sums = 0;  // of values that map returns after the output
    static constexpr bool keeps = false;   // map is given what keep returned, in place of the inputs
    static constexpr bool reduces = true;  // false: no group is read before it is mapped
    static constexpr bool maps = true;     // false: only the numbers of the groups are wanted
    static constexpr bool waits = true;    // false: the constants need no record of the whole group

    template <class Local, class... X>
    GRADFUSE_HD T keep(const Local&, X...) const {
        return 0;
    }
    template <class Record, class Group>
    GRADFUSE_HD void finish(const Record&, const Group&, double*) const {}
};

// A map whose constants come from the numbers of the group alone.
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

// How many members of type T a struct has, the struct made of values, its members brought to an array.
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
