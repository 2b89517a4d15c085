#include "cpu/kernels.h"
#include "cpu/reduce_map.h"
#include "formulas/rows/list.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class F>
void run(const double* parameters, const Grouping& g, const ReduceMapArrays& a) {
    reduce_map(F(parameters), g, a);
}

using Row = void (*)(const double* parameters, const Grouping&, const ReduceMapArrays&);

template <class T, template <class> class... Operations>
Row forward_of(int row, List<Operations...>) {
    static constexpr Row rows[] = {run<typename Operations<T>::Forward>...};
    return rows[row];
}
template <class T, template <class> class... Operations>
Row backward_of(int row, List<Operations...>) {
    static constexpr Row rows[] = {run<typename Operations<T>::Backward>...};
    return rows[row];
}

}  // namespace

void row_forward(const Formula& f, const Grouping& g, const Array& x, const Array& y) {
    ReduceMapArrays a;
    a.in[0] = &x;
    a.out = &y;
    with_compute_type(x.dtype, [&](auto t) { forward_of<decltype(t)>(f.row, RowOperations{})(f.parameters, g, a); });
}

void row_backward(const Formula& f, const Grouping& g, const Array& dy, const Array& saved, const Array& dx) {
    ReduceMapArrays a;
    a.in[0] = &dy;
    a.in[1] = &saved;
    a.out = &dx;
    with_compute_type(dy.dtype, [&](auto t) { backward_of<decltype(t)>(f.row, RowOperations{})(f.parameters, g, a); });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
