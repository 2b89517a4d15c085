#include "core/backend.h"
#include "cpu/kernels.h"
#include "cpu/reduce_map.h"
#include "formulas/norms/list.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T>
void drop(const NormOperation& op, std::int64_t start, const T* x, T* y, std::int64_t n) {
    if (op.numbers.ndim == 0) return dropout_tile(op.dropout, start, x, y, n);
    for (std::int64_t i = 0; i < n; ++i) dropout_tile(op.dropout, op.numbers(start + i), x + i, y + i, 1);
}

// Before the reduction: total = x + add, rounded as it is stored. After the map: activation and dropout.
template <class F>
struct ForwardStages {
    static constexpr bool possible = true, keeps_first = false;
    using Forward = F;
    using T = typename F::T;

    const NormOperation& op;
    const NormArrays& a;
    const F& forward;

    bool active() const { return a.add || op.activation.row >= 0 || op.dropout.threshold; }

    template <class Z>
    const T* input(const Reader<T>& read, int, std::int64_t start, std::int64_t n, T* tile, bool loads,
                   const Z&) const {
        if (!a.add) return loads || read.direct() ? read(start, n, tile) : tile;
        if (!loads) return tile;
        Buffer<T> scratch;
        const T* const x = read(start, n, tile);
        const T* const added = Reader<T>(*a.add)(start, n, scratch.data);
        for_lanes(n, [&](std::int64_t i) GRADFUSE_INLINE { tile[i] = x[i] + added[i]; });
        Writer<T>(*a.total).store(start, n, tile);
        Reader<T>(*a.total).load(start, n, tile);
        return tile;
    }
    void after_map(std::int64_t start, std::int64_t n, T* y) const {
        if (op.activation.row >= 0) {
            activation_loops<T>(op.activation.row).forward(op.activation.parameters, y, y, n);
        }
        if (op.dropout.threshold) drop(op, start, y, y, n);
    }
};

// The backward. Before the reduction: dz from dy, where z is computed again. After the map: dtotal is added.
template <class F>
struct BackwardStages {
    static constexpr bool possible = true, keeps_first = true;
    using Forward = F;
    using T = typename F::T;

    const NormOperation& op;
    const NormArrays& a;
    const F forward;

    bool active() const { return a.dtotal || op.activation.row >= 0 || op.dropout.threshold; }

    template <class Z>
    const T* input(const Reader<T>& read, int i, std::int64_t start, std::int64_t n, T* tile, bool loads,
                   const Z& map_again) const {
        const bool has_activation = op.activation.row >= 0;
        if (i == 1 || (!has_activation && !op.dropout.threshold)) {
            return loads || read.direct() ? read(start, n, tile) : tile;
        }
        if (!loads) return tile;
        const T* dy = read(start, n, tile);
        if (op.dropout.threshold) {
            drop(op, start, dy, tile, n);
            dy = tile;
        }
        if (!has_activation) return tile;
        const ActivationLoops<T>& loops = activation_loops<T>(op.activation.row);
        Buffer<T> z;
        map_again(z.data);
        if (loops.saves == Saves::y) loops.forward(op.activation.parameters, z.data, z.data, n);
        loops.backward(op.activation.parameters, dy, z.data, tile, n);
        return tile;
    }
    void after_map(std::int64_t start, std::int64_t n, T* dx) const {
        if (!a.dtotal) return;
        Buffer<T> scratch;
        const T* const more = Reader<T>(*a.dtotal)(start, n, scratch.data);
        for_lanes(n, [&](std::int64_t i) GRADFUSE_INLINE { dx[i] += more[i]; });
    }
    template <class Group>
    static GRADFUSE_HD auto constants(const F& f, const Group& g) {
        double number[6];
        take<double>(g, [&](int m, double v) GRADFUSE_INLINE { number[m] = v; });
        return f.saved(number, make<typename F::Group, double>(
                                   [&](int m) GRADFUSE_INLINE { return number[F::group_outputs + m]; }));
    }
};

void affine(const NormOperation& op, const NormArrays& a, ReduceMapArrays& arrays) {
    arrays.column[0] = a.weight;
    arrays.column[1] = a.bias;
    arrays.column_per_run = op.affine_per_run;
    arrays.periods = op.periods;
}

template <class F>
void forward(const NormOperation& op, const NormArrays& a) {
    ReduceMapArrays arrays;
    arrays.in[0] = a.x;
    arrays.out = a.y;
    affine(op, a, arrays);
    Array statistics[F::group_outputs];
    for (int k = 0; k < F::group_outputs; ++k) {
        statistics[k] = dense_doubles(a.statistics[k], op.grouping.count());
        if (a.statistics[k]) arrays.group_out[k] = &statistics[k];
    }
    arrays.group_in[0].otherwise = 1;
    const F f(op.parameters);
    reduce_map(f, op.grouping, arrays, ForwardStages<F>{op, a, f});
}

template <class F, class Forward>
void backward(const NormOperation& op, const NormArrays& a) {
    ReduceMapArrays arrays;
    arrays.in[0] = a.dy;
    arrays.in[1] = a.x;
    arrays.out = a.dx;
    affine(op, a, arrays);
    Array statistics[Forward::group_outputs];
    for (int k = 0; k < Forward::group_outputs; ++k) {
        statistics[k] = dense_doubles(a.statistics[k], op.grouping.count());
        arrays.group_in[k].array = &statistics[k];
    }
    arrays.group_in[Forward::group_outputs].otherwise = 1;
    arrays.column_sum[0] = a.dweight;
    arrays.column_sum[1] = a.dbias;
    reduce_map(F(op.parameters), op.grouping, arrays, BackwardStages<Forward>{op, a, Forward(op.parameters)});
}

using Call = void (*)(const NormOperation&, const NormArrays&);

template <class T, template <class> class... Norms>
Call forward_of(int row, List<Norms...>) {
    static constexpr Call rows[] = {forward<typename Norms<T>::Forward>...};
    return rows[row];
}
template <class T, template <class> class... Norms>
Call backward_of(int row, List<Norms...>) {
    static constexpr Call rows[] = {backward<typename Norms<T>::Backward, typename Norms<T>::Forward>...};
    return rows[row];
}

}  // namespace

void norm_forward(const NormOperation& op, const NormArrays& a) {
    with_compute_type(a.x->dtype, [&](auto t) { forward_of<decltype(t)>(op.row, Norms{})(op, a); });
}

void norm_backward(const NormOperation& op, const NormArrays& a) {
    with_compute_type(a.x->dtype, [&](auto t) { backward_of<decltype(t)>(op.row, Norms{})(op, a); });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
