#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "cuda/stage.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

template <class T>
struct Gate {
    static constexpr bool large = true;  // it has every activation
    Stage<T, 4> activation;

    explicit Gate(const Activation& activation) : activation(activation) {}

    // y = a * act(gate)
    template <int V>
    GRADFUSE_DEVICE void apply(std::int64_t, const T (&x)[2][V], T (&y)[1][V]) const {
        T f[V];
        activated(x[1], f);
        multiply(x[0], f, y[0]);
    }

    // da = dy * act(gate), dgate = dy * a * act'(gate)
    template <int V>
    GRADFUSE_DEVICE void apply(std::int64_t, const T (&x)[3][V], T (&y)[2][V]) const {
        T f[V];
        activated(x[2], f);
        multiply(x[0], f, y[0]);
        multiply(x[0], x[1], y[1]);
        activation.backward(y[1], x[2]);
    }

private:
    template <int V>
    GRADFUSE_DEVICE void activated(const T (&z)[V], T (&f)[V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) f[j] = z[j];
        activation.forward(f);
    }
    template <int V>
    static GRADFUSE_DEVICE void multiply(const T (&a)[V], const T (&b)[V], T (&to)[V]) {
#pragma unroll
        for (int j = 0; j < V; ++j) to[j] = a[j] * b[j];
    }
};

}  // namespace

}  // namespace GRADFUSE_ISA

void gated_forward(const Activation& activation, const Array& a, const Array& gate, const Array& y) {
    with_storage(a.dtype, [&](auto s) {
        using S = decltype(s);
        map<per_access<S>, S>(Gate<Compute<S>>(activation), {&y}, a, gate);
    });
}

void gated_backward(const Activation& activation, const Array& dy, const Array& a, const Array& gate, const Array& da,
                    const Array& dgate) {
    with_storage(a.dtype, [&](auto s) {
        using S = decltype(s);
        map<per_access<S>, S>(Gate<Compute<S>>(activation), {&da, &dgate}, dy, a, gate);
    });
}

}  // namespace gradfuse::cuda
