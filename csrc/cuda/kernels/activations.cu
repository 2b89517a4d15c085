#include "cuda/approximate.cuh"
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "formulas/activations/list.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

template <class Formula, class T>
struct Forward {
    Formula f;

    template <int V>
    GRADFUSE_DEVICE void apply(std::int64_t, const T (&x)[1][V], T (&y)[1][V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) y[0][j] = T(f.forward(x[0][j]));
    }
};

template <template <class> class Formula>
void forward(const double* parameters, const Array& x, const Array& y) {
    with_storage(x.dtype, [&](auto s) {
        using S = decltype(s);
        using F = Formula<Arithmetic<S>>;
        map<per_access<S>, S>(Forward<F, Compute<S>>{F(parameters)}, {&y}, x);
    });
}

template <template <class> class... Formulas>
void forward_of(const Activation& a, const Array& x, const Array& y, List<Formulas...>) {
    static constexpr void (*rows[])(const double*, const Array&, const Array&) = {forward<Formulas>...};
    rows[a.row](a.parameters, x, y);
}

template <class Formula, class T>
struct Backward {
    Formula f;

    template <int V>
    GRADFUSE_DEVICE void apply(std::int64_t, const T (&x)[2][V], T (&dx)[1][V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) dx[0][j] = T(f.backward(x[0][j], x[1][j]));
    }
};

template <template <class> class Formula>
void backward(const double* parameters, const Array& dy, const Array& saved, const Array& dx) {
    with_storage(dy.dtype, [&](auto s) {
        using S = decltype(s);
        using F = Formula<Arithmetic<S>>;
        map<per_access<S>, S>(Backward<F, Compute<S>>{F(parameters)}, {&dx}, dy, saved);
    });
}

template <template <class> class... Formulas>
void backward_of(const Activation& a, const Array& dy, const Array& saved, const Array& dx, List<Formulas...>) {
    static constexpr void (*rows[])(const double*, const Array&, const Array&, const Array&) = {backward<Formulas>...};
    rows[a.row](a.parameters, dy, saved, dx);
}

}  // namespace

}  // namespace GRADFUSE_ISA

void activation_forward(const Activation& a, const Array& x, const Array& y) { forward_of(a, x, y, Activations{}); }

void activation_backward(const Activation& a, const Array& dy, const Array& saved, const Array& dx) {
    backward_of(a, dy, saved, dx, Activations{});
}

}  // namespace gradfuse::cuda
