// One loop for all elementwise operations: any number of input arrays, one or more output arrays.
#pragma once

#include "core/backend.h"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// Whether the code of a function is so large that it needs more registers than others: F::large, if there is such.
template <class F, class = void>
constexpr bool is_large = false;
template <class F>
constexpr bool is_large<F, std::void_t<decltype(F::large)>> = F::large;

// out... = f(in...). f.apply(i, x, y) computes a vector: y[k][j] of all outputs k from x[k][j] of all inputs k, where i
// is the index of the first element. A block takes a tile; each thread issues all its loads before it computes.
template <class F, class S, int Inputs, int Outputs, int V>
struct Map : Kernel {
    static constexpr int unroll = V * sizeof(S) >= 32 ? 1 : 2;
    static constexpr std::int64_t tile = std::int64_t(threads) * V * unroll;
    // At most 40 or 48 registers, so that enough loads are in flight.
    static constexpr int blocks_per_multiprocessor = sizeof(S) == 8 || is_large<F> ? 1 : Inputs == 1 ? 6 : 5;

    F f;
    View<S> in[Inputs], out[Outputs];
    std::int64_t size;

    GRADFUSE_DEVICE void operator()() const {
        using T = Compute<S>;
        for (std::int64_t start = blockIdx.x * tile; start < size; start += gridDim.x * tile) {
            Raw<S, V> raw[unroll][Inputs];
#pragma unroll
            for (int u = 0; u < unroll; ++u) {
                const std::int64_t i = start + (u * threads + int(threadIdx.x)) * V;
#pragma unroll
                for (int k = 0; k < Inputs; ++k) in[k].load(std::uint64_t(i), count(i), true, raw[u][k]);
            }
#pragma unroll
            for (int u = 0; u < unroll; ++u) {
                const std::int64_t i = start + (u * threads + int(threadIdx.x)) * V;
                if (i >= size) return;
                T x[Inputs][V], y[Outputs][V];
#pragma unroll
                for (int k = 0; k < Inputs; ++k) widen(raw[u][k], x[k]);
                f.apply(i, x, y);
#pragma unroll
                for (int k = 0; k < Outputs; ++k) out[k].write(i, count(i), true, y[k]);
            }
        }
    }

private:
    GRADFUSE_DEVICE int count(std::int64_t i) const { return i >= size ? 0 : size - i < V ? int(size - i) : V; }
};

template <int V, class S, int Outputs, class F, class... Arrays>
void map(const F& f, const Array* const (&out)[Outputs], const Arrays&... in) {
    constexpr int inputs = sizeof...(Arrays);
    Map<F, S, inputs, Outputs, V> kernel{{}, f, {View<S>(Dense(in))...}, {}, out[0]->size};
    std::optional<DenseOutput> y[Outputs];
    for (int k = 0; k < Outputs; ++k) kernel.out[k] = View<S>(*y[k].emplace(*out[k]));
    launch(kernel, blocks_for(kernel.size, kernel.tile));
    for (const auto& output : y) output->commit();
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
