// Shared by both schedules of "reduce, then map": calls of a declaration's functions, and the numbers and columns of
// its groups.
#pragma once

#include <cstring>

#include "core/reduce_map.h"
#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/lanes.h"
#include "cpu/tile.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Stages are what a call does to elements before the reduction and after the map, on tiles in L1. They are separate
// loops over a tile. The default does nothing. Other stages have
//   active()          whether they do anything in this call
//   input(reader, i, start, n, tile, loads, z)
//                     a pointer to elements [start, start + n) of input i. If they must be computed, they are in
//                     `tile`, and computed only if `loads`. z(to) maps them again with `forward`
//   after_map(start, n, out)
//   keeps_first       between the reduction and the map, input 0 is kept in the output if the output does not round it
struct NoStages {
    static constexpr bool possible = false, keeps_first = false;
    static constexpr bool active() { return false; }
};

// Groups that follow each other in memory without a gap.
inline bool is_contiguous(const Grouping& g) {
    return (g.runs == 1 || g.run_stride == g.run) && (g.groups == 1 || g.group_stride == g.length()) &&
           (g.blocks == 1 || g.block_stride == g.groups * g.length());
}
// Groups that are so short that they hardly fill a vector.
inline bool is_short_row(const Grouping& g) {
    constexpr std::int64_t longest = 32;
    return g.length() <= longest && is_contiguous(g);
}

enum class Columns { none, per_position, per_run };

// ---- calls of a declaration's functions: x(k) is the value of input k, w(k) that of column k

template <class F, Columns C, class I = Indices<F::inputs>, class W = Indices<F::columns>>
struct Element;

template <class F, Columns C, std::size_t... I, std::size_t... W>
struct Element<F, C, std::index_sequence<I...>, std::index_sequence<W...>> {
    using T = typename F::T;

    template <class X>
    static GRADFUSE_HD T first(const F& f, const X& x) {
        return f.first(x(I)...);
    }
    template <class Local, class X>
    static GRADFUSE_HD T keep(const F& f, const Local& local, const X& x) {
        return f.keep(local, x(I)...);
    }
    template <class Local, class X, class Column>
    static GRADFUSE_HD T add(const F& f, typename F::Sums& s, const Local& local, T position, const X& x,
                             const Column& w) {
        const T kept = keep(f, local, x);
        if constexpr (C == Columns::per_position && F::adds_columns) {
            f.add(s, local, position, kept, x(I)..., w(W)...);
        } else {
            f.add(s, local, position, kept, x(I)...);
        }
        return kept;
    }
    template <class Constants, class X, class Column>
    static GRADFUSE_HD auto map(const F& f, const Constants& c, T position, const X& x, const Column& w) {
        if constexpr (F::keeps && C != Columns::none) {
            return f.map(c, position, x(0), w(W)...);
        } else if constexpr (F::keeps) {
            return f.map(c, position, x(0));
        } else if constexpr (C != Columns::none) {
            return f.map(c, position, x(I)..., w(W)...);
        } else {
            return f.map(c, position, x(I)...);
        }
    }
};

// The structs of many groups are kept as one array of lanes for each member.
template <class S, class V, class From>
GRADFUSE_HD S lane_of(const From& from, std::int64_t l) {
    return make<S, V>([&](int m) GRADFUSE_INLINE { return from[m][l]; });
}
template <class V, class S, class To>
GRADFUSE_HD void set_lane(const S& s, To& to, std::int64_t l) {
    take<V>(s, [&](int m, V value) GRADFUSE_INLINE { to[m][l] = value; });
}

template <class F, Columns C, class Stages>
class Loop {
protected:
    using T = typename F::T;
    using Real = typename F::Real;
    using Group = typename F::Group;
    using Local = typename F::Local;
    using Sums = typename F::Sums;
    using Record = typename F::Record;
    using Constants = typename F::Constants;
    using Call = Element<F, C>;
    static constexpr bool has_first = !std::is_void_v<typename F::First>, sums_columns = F::column_sums > 0;
    static constexpr int inputs = F::inputs, columns = F::columns, group_outputs = F::group_outputs,
                         column_sums = F::column_sums, group_inputs = members<Group, double>,
                         sums = members<Sums, Real>, records = members<Record, double>, locals = members<Local, T>,
                         constants = members<Constants, T>, most = ReduceMapArrays::most;

    Loop(const F& f, const Grouping& g, const ReduceMapArrays& a, const Stages& stages)
        : f_(f),
          g_(g),
          a_(a),
          stages_(stages),
          in_{Reader<T>(*a.in[0]), Reader<T>(*a.in[inputs - 1])},
          out_(a.out ? *a.out : *a.in[0]),
          wanted_(sums_columns && (a.column_sum[0] || a.column_sum[1])),
          per_period_(C == Columns::per_run ? g.runs : g.length()),
          width_(C == Columns::none && !wanted_ ? 0 : per_period_ * a.periods),
          columns_(C == Columns::none ? 0 : 2 * width_) {
        for (int c = 0; c < 2 && C != Columns::none; ++c) {
            T* const to = columns_.data() + c * width_;
            if (a.column[c]) {
                Reader<T>(*a.column[c]).load(0, width_, to);
            } else {
                for (std::int64_t i = 0; i < width_; ++i) to[i] = c == 0 ? T(1) : T(-0.0);
            }
        }
    }

    std::int64_t first_column(std::int64_t group) const {
        return a_.periods == 1 ? 0 : group % a_.periods * per_period_;
    }
    const T* column(int c) const { return columns_.data() + c * width_; }
    // Whether an array comes from memory, not from cache.
    static bool is_large(const Grouping& g) { return g.count() * g.length() * std::int64_t(sizeof(T)) > 1 << 24; }

    // Reads the input numbers of groups [g, g + count); `count` is at most N.
    template <int N>
    void read_numbers(std::int64_t g, std::int64_t count, double (&numbers)[most][N]) const {
        for (int m = 0; m < group_inputs; ++m) {
            const GroupNumbers& n = a_.group_in[m];
            if (!n.array) {
                for (std::int64_t k = 0; k < count; ++k) numbers[m][k] = n.otherwise;
            } else if (n.array->dtype == DType::i64) {
                const auto* const from = static_cast<const std::int64_t*>(n.array->data);
                for (std::int64_t k = 0; k < count; ++k) numbers[m][k] = double(from[n.index(g + k)]);
            } else if (n.mod == 0 && g_.members == 1) {
                Reader<double>(*n.array).load(g, count, numbers[m]);
            } else if (n.mod == 0 && g % g_.members == 0) {
                const std::int64_t each = g_.members, all = count / each;
                Reader<double>(*n.array).load(g / each, all, numbers[m]);
                for (std::int64_t k = all - 1; k >= 0; --k) {
                    for (std::int64_t j = each - 1; j >= 0; --j) numbers[m][k * each + j] = numbers[m][k];
                }
            } else {
                for (std::int64_t k = 0; k < count; ++k) {
                    Reader<double>(*n.array).load(n.index((g + k) / g_.members), 1, &numbers[m][k]);
                }
            }
        }
    }
    // Reads input 0 and column 0 at the position given by a group's first number.
    template <int N>
    void pick(std::int64_t base, std::int64_t group, std::int64_t k, double (&numbers)[most][N]) const {
        const double position = numbers[0][k];
        const bool there = position >= 0 && position < double(g_.length());
        const std::int64_t at = there ? std::int64_t(position) : 0;
        T x = 0;
        if (there) x = *in_[0](base + at / g_.run * g_.run_stride + at % g_.run, 1, &x);
        numbers[1][k] = double(x);
        numbers[2][k] = C == Columns::none || !there ? 1 : double(column(0)[first_column(group) + at]);
    }
    template <int N>
    void write_numbers(std::int64_t g, std::int64_t count, const double (&results)[group_outputs + 1][N]) const {
        for (int m = 0; m < group_outputs; ++m) {
            if (!a_.group_out[m]) continue;
            const Writer<double> write(*a_.group_out[m]);
            if (g_.members == 1) {
                write.store(g, count, results[m]);
            } else {
                for (std::int64_t k = 0; k < count; k += g_.members)
                    write.store((g + k) / g_.members, 1, &results[m][k]);
            }
        }
    }
    // Adds the column sums of all slots in order, and writes them.
    void write_column_sums(const Heap<double>& slots, std::int64_t count) const {
        const std::int64_t each = column_sums * width_;
        for (std::int64_t s = 1; s < count; ++s) {
            for (std::int64_t i = 0; i < each; ++i) slots[i] += slots[s * each + i];
        }
        for (int k = 0; k < column_sums; ++k) {
            if (a_.column_sum[k]) Writer<double>(*a_.column_sum[k]).store(0, width_, slots.data() + k * width_);
        }
    }

    const F& f_;
    const Grouping& g_;
    const ReduceMapArrays& a_;
    const Stages& stages_;
    const Reader<T> in_[2];
    const Writer<T> out_;
    const bool wanted_;  // column sums are needed
    const std::int64_t per_period_, width_;
    const Heap<T> columns_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
