// Maxout: the maximum of a unit's pieces.
#include "core/math.h"
#include "cuda/kernels.h"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

// The array is [outer][pieces][group]: the pieces of a unit are one group apart.
template <class S, bool Backward>
struct Maxout : Kernel {
    using T = Compute<S>;
    static constexpr int V = 8;

    View<S> x, y;  // y: the result, or its gradient
    View<S> dx;
    std::int64_t size;  // of y
    int pieces;
    Divider group;

    GRADFUSE_DEVICE void operator()() const {
        const bool wide = group.divisor % V == 0;
        const int step = wide ? V : 1;
        for (std::int64_t i = (std::int64_t(blockIdx.x) * threads + threadIdx.x) * step; i < size;
             i += std::int64_t(gridDim.x) * threads * step) {
            const std::int64_t o = group.divide(i), first = i + o * (pieces - 1) * group.divisor;
            T best[V];
            int winner[V] = {};
            x.read(first, step, wide, best);
            for (int k = 1; k < pieces; ++k) {
                T v[V];
                x.read(first + k * group.divisor, step, wide, v);
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    const T top = math::max_or_nan(best[j], v[j]);
                    const bool same = (top == best[j]) | (best[j] != best[j]);
                    winner[j] = same ? winner[j] : k;
                    best[j] = top;
                }
            }
            if constexpr (!Backward) {
                y.write(i, step, wide, best);
            } else {
                T g[V];
                y.read(i, step, wide, g);
                for (int k = 0; k < pieces; ++k) {
                    T v[V];
#pragma unroll
                    for (int j = 0; j < V; ++j) v[j] = winner[j] == k ? g[j] : T(0);
                    dx.write(first + k * group.divisor, step, wide, v);
                }
            }
        }
    }
};

template <bool Backward>
void maxout(const ChannelShape& s, int pieces, const Array& x_, const Array& y, const Array* dx) {
    const Dense x(x_);
    with_storage(x->dtype, [&](auto storage) {
        using S = decltype(storage);
        if (y.size == 0) return;
        const Divider group(s.channels / pieces * s.inner, x->size);
        const Maxout<S, Backward> kernel{{},     View<S>(x), View<S>(y), dx ? View<S>(*dx) : View<S>(),
                                         y.size, pieces,     group};
        const bool wide = kernel.group.divisor % kernel.V == 0;
        launch(kernel, blocks_for(y.size, kernel.threads * (wide ? kernel.V : 1)));
    });
}

}  // namespace

}  // namespace GRADFUSE_ISA

void maxout_forward(const ChannelShape& s, int pieces, const Array& x, const Array& y) {
    maxout<false>(s, pieces, x, y, nullptr);
}

void maxout_backward(const ChannelShape& s, int pieces, const Array& dy, const Array& x, const Array& dx) {
    maxout<true>(s, pieces, x, Dense(dy), &dx);
}

}  // namespace gradfuse::cuda
