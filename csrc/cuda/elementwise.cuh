// One loop for every operation that takes elements one by one: any number of arrays in, one out.
#pragma once

#include "core/backend.h"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// out = f(in...). f.apply(i, x, y) takes a vector: y[j] from the x[k][j] of all inputs, i the index of its first
// element. A block takes a tile; each thread's accesses are all under way before it computes.
template <class F, class S, int Inputs, int V>
struct Map : Kernel {
    static constexpr int unroll = V * sizeof(S) >= 32 ? 1 : 2;
    static constexpr std::int64_t tile = std::int64_t(threads) * V * unroll;

    F f;
    View<S> in[Inputs], out;
    std::int64_t size;

    GRADFUSE_DEVICE void operator()() const {
        using T = Compute<S>;
        for (std::int64_t start = blockIdx.x * tile; start < size; start += gridDim.x * tile) {
            S raw[unroll][Inputs][V];
#pragma unroll
            for (int u = 0; u < unroll; ++u) {
                const std::int64_t i = start + (u * threads + int(threadIdx.x)) * V;
#pragma unroll
                for (int k = 0; k < Inputs; ++k) in[k].load(i, count(i), true, raw[u][k]);
            }
#pragma unroll
            for (int u = 0; u < unroll; ++u) {
                const std::int64_t i = start + (u * threads + int(threadIdx.x)) * V;
                if (i >= size) return;
                T x[Inputs][V], y[V];
#pragma unroll
                for (int k = 0; k < Inputs; ++k) widen<S>(raw[u][k], x[k]);
                f.apply(i, x, y);
                out.write(i, count(i), true, y);
            }
        }
    }

private:
    GRADFUSE_DEVICE int count(std::int64_t i) const { return i >= size ? 0 : size - i < V ? int(size - i) : V; }
};

template <int V, class S, class F, class... Arrays>
void map(const F& f, const Array& out, const Arrays&... in) {
    constexpr int inputs = sizeof...(Arrays);
    const DenseOutput y(out);
    const Map<F, S, inputs, V> kernel{{}, f, {View<S>(Dense(in))...}, View<S>(y), out.size};
    launch(kernel, blocks_for(out.size, kernel.tile));
    y.commit();
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
