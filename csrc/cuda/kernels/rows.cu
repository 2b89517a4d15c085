// The row operations of the list.
#include "cuda/kernels.h"
#include "cuda/reduce_map.cuh"
#include "formulas/rows/list.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

template <class S, class F>
void run(const F& f, const Grouping& grouping, const ReduceMapArrays& arrays) {
    const NoStages none;
    reduce_map<false, false, S>(f, grouping, arrays, Columns<S, 0>(), &none, none);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void row_forward(const Formula& formula, const Grouping& grouping, const Array& x_, const Array& y_) {
    const Dense x(x_);
    const DenseOutput y(y_);
    ReduceMapArrays arrays;
    arrays.in[0] = &*x, arrays.out = &*y;
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        with_row<Compute<S>>(formula.row, RowOperations{}, [&](auto row) {
            run<S>(typename decltype(row)::Forward(formula.parameters), grouping, arrays);
        });
    });
    y.commit();
}

void row_backward(const Formula& formula, const Grouping& grouping, const Array& dy_, const Array& saved_,
                  const Array& dx_) {
    const Dense dy(dy_), saved(saved_);
    const DenseOutput dx(dx_);
    ReduceMapArrays arrays;
    arrays.in[0] = &*dy, arrays.in[1] = &*saved, arrays.out = &*dx;
    with_storage(dy->dtype, [&](auto storage) {
        using S = decltype(storage);
        with_row<Compute<S>>(formula.row, RowOperations{}, [&](auto row) {
            run<S>(typename decltype(row)::Backward(formula.parameters), grouping, arrays);
        });
    });
    dx.commit();
}

}  // namespace gradfuse::cuda
