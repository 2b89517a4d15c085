// Dropout and RReLU: elementwise, with eight elements per Philox block.
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"
#include "cuda/random.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

constexpr int V = elements_per_block;

template <class T>
struct Drop {
    Dropout d;

    GRADFUSE_DEVICE void apply(std::int64_t i, const T (&x)[1][V], T (&y)[1][V]) const {
#pragma unroll
        for (int j = 0; j < V; ++j) y[0][j] = x[0][j];
        drop(d, i, y[0]);
    }
};

template <class T>
struct RRelu {
    RandomStream random;
    T low, step;

    GRADFUSE_DEVICE void apply(std::int64_t i, const T (&x)[2][V], T (&y)[1][V]) const {
        std::uint32_t half[V];
        half_words(random, i, half);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const T slope = low + step * (T(half[j]) + T(0.5));
            y[0][j] = x[0][j] > 0 ? x[1][j] : slope * x[1][j];
        }
    }
};

}  // namespace

}  // namespace GRADFUSE_ISA

void dropout(const Dropout& d, const Array& x, const Array& y) {
    with_storage(x.dtype, [&](auto s) {
        using S = decltype(s);
        map<V, S>(Drop<Compute<S>>{d}, {&y}, x);
    });
}

void rrelu(RandomStream random, double lower, double upper, const Array& x, const Array& v, const Array& out) {
    with_storage(x.dtype, [&](auto s) {
        using S = decltype(s);
        using T = Compute<S>;
        map<V, S>(RRelu<T>{random, T(lower), T((upper - lower) / 65536)}, {&out}, x, v);
    });
}

}  // namespace gradfuse::cuda
