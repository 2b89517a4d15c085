#include "cpu/elementwise.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

template <class T, template <class> class... Formulas>
const ActivationLoops<T>& row_of(int row, List<Formulas...>) {
    static constexpr ActivationLoops<T> rows[] = {
        {forward_loop<Formulas, T>, backward_loop<Formulas, T>, Formulas<T>::info.saves}...};
    return rows[row];
}

}  // namespace

template <class T>
const ActivationLoops<T>& activation_loops(int row) {
    return row_of<T>(row, Activations{});
}
template const ActivationLoops<float>& activation_loops<float>(int);
template const ActivationLoops<double>& activation_loops<double>(int);

void activation_forward(const Activation& a, const Array& x, const Array& y) {
    with_compute_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        const auto loop = activation_loops<T>(a.row).forward;
        map<T>(x, y, [&](std::int64_t, const T* from, T* to, std::int64_t n) { loop(a.parameters, from, to, n); });
    });
}

void activation_backward(const Activation& a, const Array& dy, const Array& saved, const Array& dx) {
    with_compute_type(dy.dtype, [&](auto t) {
        using T = decltype(t);
        const auto loop = activation_loops<T>(a.row).backward;
        map<T>(dy, saved, dx,
               [&](std::int64_t, const T* g, const T* s, T* to, std::int64_t n) { loop(a.parameters, g, s, to, n); });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
