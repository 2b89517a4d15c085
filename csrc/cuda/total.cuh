// The sum of an array of numbers, in a fixed order.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// to[0] = scale * the sum, or the sum divided by a number in device memory.
struct Total : Kernel {
    static constexpr int threads = 1024;

    const double* values;
    std::int64_t count;
    double scale;
    const double* denominator;
    DoubleView to;

    GRADFUSE_DEVICE void operator()() const {
        double sum = 0;
        for (std::int64_t i = threadIdx.x; i < count; i += threads) sum += values[i];
        sum = block_reduce(sum, shared_memory<void>(), Add{}, threads);
        if (threadIdx.x == 0) to.set(0, denominator ? sum / *denominator : scale * sum);
    }
};

inline void store_total(const double* values, std::int64_t count, double scale, const Array& to,
                        const double* denominator = nullptr) {
    const Total kernel{{}, values, count, scale, denominator, DoubleView(&to)};
    launch(kernel, 1, kernel.threads / warp_size * std::int64_t(sizeof(double)));
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
