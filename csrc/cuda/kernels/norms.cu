// The normalizations of the list, with the operations that are fused before and after them.
#include "cuda/column_sums.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "formulas/norms/list.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// Before the reduction: total = x + add. After the map: the epilogue, if All.
template <class S, bool All>
struct ForwardStages : NoStages {
    using T = Compute<S>;
    static constexpr int extra = 1;
    static constexpr bool large = All, replaces = true;

    const S* add;
    S* total;
    std::conditional_t<All, Epilogue<T, ElementOrder>, NoEpilogue> epilogue;

    ForwardStages(const NormOperation& op, const NormArrays& a)
        : add(pointer<S>(a.add)), total(pointer<S>(a.total)), epilogue(op.activation, op.dropout, op.numbers) {}
    bool wide() const { return is_wide(add) && is_wide(total); }

    GRADFUSE_DEVICE const ForwardStages& of_group(std::int64_t, std::int64_t) const { return *this; }
    template <int V, class At>
    GRADFUSE_DEVICE void load(const At& at, Raw<S, V>& extra) const {
        if (add) at.load(add, extra);
    }
    template <int V, class At>
    GRADFUSE_DEVICE void before(const At& at, T (&x)[1][V], const Raw<S, V>& extra, bool last) const {
        if (!add) return;
        T addend[V];
        widen(extra, addend);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            x[0][j] = Storage<S>::template load<T>(Storage<S>::store(x[0][j] + addend[j]));
        }
        if (total && last) at.write(total, x[0]);
    }
    template <int V, class At>
    GRADFUSE_DEVICE void after(const At& at, T (&y)[V]) const {
        epilogue.forward(at, y);
    }
};

// Before the reduction: the epilogue's backward, with its input computed again from x. After the map: dx += dtotal.
template <class Forward, class S, bool All>
struct BackwardStages : NoStages {
    using T = Compute<S>;
    static constexpr bool large = All;
    static constexpr int affine = members<typename Forward::Group, double>;

    const S* dtotal;
    std::conditional_t<All, Epilogue<T, ElementOrder>, NoEpilogue> epilogue;
    Forward norm;
    Columns<S, Forward::columns> columns;
    Numbers statistics[Forward::group_outputs], group_in[affine + 1];

    BackwardStages(const NormOperation& op, const NormArrays& a, const ReduceMapArrays& forward, const Forward& norm)
        : dtotal(pointer<S>(a.dtotal)),
          epilogue(op.activation, op.dropout, op.numbers),
          norm(norm),
          columns(op.grouping, forward.column, forward.column_per_run, forward.periods, norm.no_weight()) {
        for (int k = 0; k < affine; ++k) group_in[k] = Numbers(forward.group_in[k]);
    }
    bool wide() const { return is_wide(dtotal); }

    struct OfGroup : NoStages {
        const BackwardStages& s;
        std::int64_t first;  // the first of the group's columns
        typename Forward::Constants constants;

        GRADFUSE_DEVICE OfGroup(const BackwardStages& s, std::int64_t first,
                                const typename Forward::Constants& constants)
            : s(s), first(first), constants(constants) {}
        template <int V, class At>
        GRADFUSE_DEVICE void before(const At& at, T (&x)[2][V], const Raw<S, V>&, bool) const {
            s.epilogue.backward(at, x[0], [&](T(&z)[V]) {
                using E = Element<Forward, true>;
                T w[E::columns + 1][V], in[1][V];
                s.columns.read(first, at, w);
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    in[0][j] = x[1][j];
                    z[j] = E::map(s.norm, constants, 0, T(0), in, w, j).v[0];
                }
            });
        }
        template <int V, class At>
        GRADFUSE_DEVICE void after(const At& at, T (&dx)[V]) const {
            if (!s.dtotal) return;
            T more[V];
            at.read(s.dtotal, more);
#pragma unroll
            for (int j = 0; j < V; ++j) dx[j] += more[j];
        }
    };
    GRADFUSE_DEVICE OfGroup of_group(std::int64_t group, std::int64_t first) const {
        if constexpr (!All) {
            return {*this, first, {}};
        } else {
            double numbers[Forward::group_outputs];
            for (int k = 0; k < Forward::group_outputs; ++k) numbers[k] = statistics[k].get(group);
            const auto in = make<typename Forward::Group, double>([&](int k) { return group_in[k].get(group); });
            return {*this, first, norm.saved(numbers, in)};
        }
    }
};

// Whether all elements of a group have the same weight and bias.
bool affine_per_group(const NormOperation& op) {
    return op.affine_per_run && (op.grouping.runs == 1 || op.grouping.across());
}

ReduceMapArrays affine_arrays(const NormOperation& op, const NormArrays& a) {
    ReduceMapArrays r;
    r.group_in[0].otherwise = 1;
    if (affine_per_group(op)) {
        r.group_in[0] = {a.weight, 1, op.periods}, r.group_in[1] = {a.bias, 0, op.periods};
    } else {
        r.column[0] = a.weight, r.column[1] = a.bias;
        r.column_per_run = op.affine_per_run, r.periods = op.periods;
    }
    return r;
}

template <class S, class Forward>
void forward(const NormOperation& op, const NormArrays& a, const GroupDoubles* statistics) {
    const Forward f(op.parameters);
    ReduceMapArrays r = affine_arrays(op, a);
    r.in[0] = a.x, r.out = a.y;
    for (int k = 0; k < Forward::group_outputs; ++k) r.group_out[k] = statistics[k];
    const Columns<S, Forward::columns> columns(op.grouping, r.column, r.column_per_run, r.periods, f.no_weight());
    const ForwardStages<S, !has_vectors<S>> plain(op, a);
    const bool is_plain = op.activation.row < 0 && op.dropout.threshold == 0;
    reduce_map<true, true, S>(f, op.grouping, r, columns, is_plain ? &plain : nullptr, ForwardStages<S, true>(op, a));
}

template <class S, class Forward, class Backward>
void backward(const NormOperation& op, const NormArrays& a, const GroupDoubles* statistics) {
    constexpr int numbers = Forward::group_outputs, sums = Backward::column_sums;
    const Backward f(op.parameters);
    const Forward norm(op.parameters);
    ReduceMapArrays r = affine_arrays(op, a);
    BackwardStages<Forward, S, !has_vectors<S>> plain(op, a, r, norm);
    BackwardStages<Forward, S, true> all(op, a, r, norm);
    const Columns<S, Backward::columns> columns(op.grouping, r.column, r.column_per_run, r.periods, norm.no_weight());
    if (members<typename Backward::Group, double> > numbers) r.group_in[numbers] = r.group_in[0];
    for (int k = 0; k < numbers; ++k) {
        r.group_in[k] = {statistics[k], 0, 0};
        all.statistics[k] = Numbers(r.group_in[k]);
    }
    r.in[0] = a.dy, r.in[1] = a.x, r.out = a.dx;
    const Array* const column_sum[] = {a.dweight, a.dbias};
    const std::int64_t groups = op.grouping.count();
    double* parts[2] = {};
    if (!affine_per_group(op)) {
        r.column_sum[0] = a.dweight, r.column_sum[1] = a.dbias;
    } else if (a.dweight || a.dbias) {
        parts[0] = allocate_array<double>(2 * groups), parts[1] = parts[0] + groups;
    }
    const GroupDoubles of_groups[] = {{parts[0], groups}, {parts[1], groups}};
    r.group_out[0] = of_groups[0], r.group_out[1] = of_groups[1];
    const bool is_plain = op.activation.row < 0 && op.dropout.threshold == 0;
    reduce_map_and_columns<S>(f, op.grouping, r, columns, is_plain ? &plain : nullptr, all);
    if (parts[0]) merge_slots<double, sums>(parts[0], groups / op.periods, op.periods, column_sum);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void norm_forward(const NormOperation& op, const NormArrays& arrays) {
    const Dense x(*arrays.x);
    const DenseOutput y(*arrays.y);
    const auto add = dense_or_none<Dense>(arrays.add);
    const auto weight = dense_or_none<WideDense>(arrays.weight), bias = dense_or_none<WideDense>(arrays.bias);
    const auto total = dense_or_none<DenseOutput>(arrays.total);
    NormArrays a = arrays;
    a.x = &*x, a.y = &*y, a.add = pointer_to(add), a.weight = pointer_to(weight), a.bias = pointer_to(bias);
    a.total = pointer_to(total);
    const std::int64_t groups = op.grouping.count();
    const GroupDoubles statistics[] = {{a.statistics[0], groups}, {a.statistics[1], groups}};
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        with_row<Compute<S>>(op.row, Norms{},
                             [&](auto norm) { forward<S, typename decltype(norm)::Forward>(op, a, statistics); });
    });
    y.commit();
    if (total) total->commit();
}

void norm_backward(const NormOperation& op, const NormArrays& arrays) {
    const Dense x(*arrays.x), dy(*arrays.dy);
    const DenseOutput dx(*arrays.dx);
    const auto weight = dense_or_none<WideDense>(arrays.weight), bias = dense_or_none<WideDense>(arrays.bias);
    const auto dtotal = dense_or_none<Dense>(arrays.dtotal);
    const auto dweight = dense_or_none<DenseOutput>(arrays.dweight), dbias = dense_or_none<DenseOutput>(arrays.dbias);
    NormArrays a = arrays;
    a.x = &*x, a.dy = &*dy, a.dx = &*dx, a.weight = pointer_to(weight), a.bias = pointer_to(bias);
    a.dtotal = pointer_to(dtotal), a.dweight = pointer_to(dweight), a.dbias = pointer_to(dbias);
    const std::int64_t groups = op.grouping.count();
    const GroupDoubles statistics[] = {{a.statistics[0], groups}, {a.statistics[1], groups}};
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        with_row<Compute<S>>(op.row, Norms{}, [&](auto norm) {
            using Norm = decltype(norm);
            backward<S, typename Norm::Forward, typename Norm::Backward>(op, a, statistics);
        });
    });
    dx.commit();
    if (dweight) dweight->commit();
    if (dbias) dbias->commit();
}

}  // namespace gradfuse::cuda
