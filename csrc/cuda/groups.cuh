// Groups of elements for the kernels of reduce_map.cuh: the indices of their elements, the numbers of a group, and the
// columns, which have a value per position in the group.
#pragma once

#include "core/reduce_map.h"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

template <class S>
bool is_wide(const S* pointer) {  // whether an access of 16 bytes may begin here
    return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

// The groups of a dense array, and the indices of their elements.
struct Groups {
    explicit Groups(const Grouping& g)
        : count(g.count()),
          length(g.length()),
          block_stride(g.block_stride),
          group_stride(g.group_stride),
          run_stride(g.run_stride),
          one_run(g.runs == 1 || (g.run_stride == g.run && g.group_stride == g.length())),
          across(g.across()),
          step(g.run == 1 && !one_run ? g.run_stride : 1),
          jump(g.run == 1 || one_run ? 0 : g.run_stride - g.run),
          short_run(g.run < 1 || g.run > 8 ? 8 : int(g.run)),
          inverse((255 + short_run) / short_run),
          groups(g.groups, count),
          run(one_run ? length : g.run, length) {}

    GRADFUSE_DEVICE std::int64_t first(std::int64_t group) const {
        const std::int64_t in_block = groups.split(group);
        return group * block_stride + in_block * group_stride;
    }
    GRADFUSE_DEVICE std::int64_t offset(std::int64_t position) const {
        if (jump == 0) return position * step;
        const std::int64_t in_run = run.split(position);
        return position * run_stride + in_run;
    }
    // Whether runs consist of whole vectors of v elements, aligned to multiples of v.
    bool in_vectors(int v) const {
        return !across && run.divisor % v == 0 && (one_run || (run_stride % v == 0 && group_stride % v == 0));
    }

    // Whether neighboring groups are whole vectors of v elements, aligned to multiples of v.
    bool across_in_vectors(int v) const { return across && count % v == 0 && block_stride % v == 0 && step % v == 0; }

    std::int64_t count, length, block_stride, group_stride, run_stride;
    bool one_run;             // every group is contiguous; does not depend on the number of groups
    bool across;              // neighboring groups are side by side in memory
    std::int64_t step, jump;  // the distance of two positions, and what is added to it between runs
    int short_run, inverse;   // the length of a run, at most 8; 256 divided by this, rounded up
    Divider groups, run;
};

// How the elements of groups are accessed: in whole vectors on boundaries of 16 bytes (groups of one run, or of several
// runs), in any way, or in tiles of neighboring groups. In rows, which are one run, columns have a value per position.
enum class Layout { rows, one_run, runs, any, side_by_side };

// V neighboring positions of a group; `count` of them exist.
template <int V, Layout L>
struct Positions {
    static constexpr bool whole = L != Layout::any;

    const Groups& groups;
    std::int64_t position;  // of the first element in the group
    std::int64_t start;     // index of the first element
    int count;
    bool wide;
    int left = V;  // remaining elements of the run, at most V

    GRADFUSE_DEVICE Positions(const Groups& groups, std::int64_t first, std::int64_t position, int count, bool wide)
        : groups(groups), position(position), count(count), wide(wide) {
        if (L == Layout::rows || L == Layout::one_run) {
            start = first + position;
        } else if (groups.jump == 0) {
            start = first + position * groups.step;
        } else {
            std::int64_t runs = position;
            const std::int64_t in_run = groups.run.split(runs), rest = groups.run.divisor - in_run;
            start = first + runs * groups.run_stride + in_run;
            if (rest < V) left = int(rest);
        }
    }

    GRADFUSE_DEVICE bool as_vector() const { return whole || wide; }
    GRADFUSE_DEVICE std::int64_t index(int j) const {
        return whole ? start + j : start + j * groups.step + runs_before(j) * groups.jump;
    }
    // The number of contiguous elements from position j to the end of its run.
    GRADFUSE_DEVICE int side_by_side(int j) const {
        if (whole) return V - j;
        return groups.step == 1 ? left + runs_before(j) * groups.short_run - j : 1;
    }
    template <class S>
    GRADFUSE_DEVICE void load(const S* from, Raw<S, V>& to) const {
        if (as_vector()) return View<S>(const_cast<S*>(from), true).load(start, V, true, to);
#pragma unroll
        for (int j = 0; j < V; ++j) to.set(j, j < count ? from[index(j)] : S{});
    }
    template <class S>
    GRADFUSE_DEVICE void read(const S* from, Compute<S> (&to)[V]) const {
        Raw<S, V> raw;
        load(from, raw);
        widen(raw, to);
    }
    template <class S>
    GRADFUSE_DEVICE void write(S* to, const Compute<S> (&from)[V]) const {
        if (as_vector()) return View<S>(to, true).write(start, V, true, from);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j < count) to[index(j)] = Storage<S>::store(from[j]);
        }
    }

private:
    // The number of runs that end before position j. A product replaces the division; it is exact for j < 8.
    GRADFUSE_DEVICE int runs_before(int j) const {
        static_assert(V <= 8);
        return j < left ? 0 : 1 + ((j - left) * groups.inverse >> 8);
    }
};

// An input number per group, of any dtype.
class Numbers {
public:
    Numbers() = default;
    explicit Numbers(const GroupNumbers& n)
        : data_(n.array ? n.array->data : nullptr),
          dtype_(n.array ? n.array->dtype : DType::f64),
          otherwise_(n.otherwise),
          mod_(n.mod) {}

    GRADFUSE_DEVICE double get(std::int64_t group) const {
        if (!data_) return otherwise_;
        const std::int64_t i = mod_ ? group % mod_ : group;
        if (dtype_ == DType::i32) return double(static_cast<const std::int32_t*>(data_)[i]);
        if (dtype_ == DType::i64) return double(static_cast<const std::int64_t*>(data_)[i]);
        double value = 0;
        with_storage(dtype_, [&](auto s) {
            using S = decltype(s);
            value = Storage<S>::template load<double>(static_cast<const S*>(data_)[i]);
        });
        return value;
    }

private:
    const void* data_ = nullptr;
    DType dtype_ = DType::f64;
    double otherwise_ = 0;
    std::int64_t mod_ = 0;
};

// Columns of the storage type or of the compute type. An absent column has the same value everywhere.
template <class S, int N>
class Columns {
public:
    using T = Compute<S>;

    explicit Columns(const Grouping& g, const Array* const* columns, bool per_run, std::int64_t periods,
                     T no_weight = 1)
        : periods_(periods),
          per_period_(per_run ? g.runs : g.length()),
          run_(per_run ? g.run : 1, g.length()),
          per_run_(per_run) {
        for (int c = 0; c < N; ++c) {
            data_[c] = columns[c] ? columns[c]->data : nullptr;
            computed_[c] = columns[c] && columns[c]->dtype != dtype_of();
            absent_[c] = c == 0 ? no_weight : T(-0.0);
        }
    }

    // Whether columns may be read in whole vectors of v elements.
    bool whole(int v) const {
        bool whole = !per_run_ || run_.divisor % v == 0;
        for (const void* data : data_) whole = whole && is_wide(data);
        return whole;
    }

    GRADFUSE_DEVICE T at(int c, std::int64_t i) const {
        if (!data_[c]) return absent_[c];
        return computed_[c] ? static_cast<const T*>(data_[c])[i]
                            : Storage<S>::template load<T>(static_cast<const S*>(data_[c])[i]);
    }
    GRADFUSE_DEVICE std::int64_t first(std::int64_t group) const { return group % periods_ * per_period_; }
    GRADFUSE_DEVICE std::int64_t index(std::int64_t group, std::int64_t position) const {
        return first(group) + run_.divide(position);
    }

    template <int V, Layout L, int M>
    GRADFUSE_DEVICE void read(std::int64_t first, const Positions<V, L>& at, T (&to)[M][V]) const {
#pragma unroll
        for (int c = 0; c < N; ++c) read_one(c, first, at, to[c]);
    }

private:
    static DType dtype_of() {
        return std::is_same_v<S, Half>       ? DType::f16
               : std::is_same_v<S, BFloat16> ? DType::bf16
               : std::is_same_v<S, float>    ? DType::f32
                                             : DType::f64;
    }

    template <int V, Layout L>
    GRADFUSE_DEVICE void read_one(int c, std::int64_t first, const Positions<V, L>& p, T (&to)[V]) const {
        if (!data_[c] || (L != Layout::rows && p.whole && per_run_)) {
            const T value = data_[c] ? at(c, first + run_.divide(p.position)) : absent_[c];
#pragma unroll
            for (int j = 0; j < V; ++j) to[j] = value;
        } else if (!p.whole) {
            std::int64_t column = p.position;
            std::int64_t left = run_.divisor - run_.split(column);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                to[j] = j < p.count ? at(c, first + column) : T(0);
                if (--left == 0) ++column, left = run_.divisor;
            }
        } else if (computed_[c]) {
            View<T>(const_cast<void*>(data_[c]), true).read(first + p.position, V, true, to);
        } else {
            View<S>(const_cast<void*>(data_[c]), true).read(first + p.position, V, true, to);
        }
    }

    const void* data_[N];
    bool computed_[N];
    T absent_[N];
    std::int64_t periods_, per_period_;
    Divider run_;  // positions of a column
    bool per_run_;
};

template <class S>
class Columns<S, 0> {
public:
    Columns() = default;
    template <class... Any>
    explicit Columns(const Any&...) {}
    bool whole(int) const { return true; }
    GRADFUSE_DEVICE std::int64_t first(std::int64_t) const { return 0; }
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
