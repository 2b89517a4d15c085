// The sum of an array of numbers, in a fixed order.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// to[0] = scale * the sum, or the sum divided by a number in device memory. Part of the kernel that writes the numbers:
// its last block adds them.
struct Total {
    const double* values = nullptr;
    std::int64_t count = 0;
    double scale = 1;
    const double* denominator = nullptr;
    DoubleView to;
    unsigned* ticket = nullptr;  // null if there is no sum

    // All threads of all blocks call this last.
    GRADFUSE_DEVICE void store() const {
        if (!ticket || !is_last_block(ticket, shared_memory<int>())) return;
        const volatile double* const all = values;  // written by other blocks in this launch
        constexpr int n = 8;                        // sums of a thread: more loads in flight, and shorter sums
        double sums[n] = {};
        for (std::int64_t i = threadIdx.x; i < count; i += n * std::int64_t(blockDim.x)) {
#pragma unroll
            for (int k = 0; k < n; ++k) {
                const std::int64_t at = i + k * std::int64_t(blockDim.x);
                if (at < count) sums[k] += all[at];
            }
        }
        double sum = 0;
        for (const double s : sums) sum += s;
        sum = block_reduce(sum, shared_memory<void>(), Add{}, int(blockDim.x));
        if (threadIdx.x == 0) to.set(0, denominator ? sum / *denominator : scale * sum);
    }
};

// For an array without numbers.
struct StoreTotal : Kernel {
    Total total;
    GRADFUSE_DEVICE void operator()() const { total.store(); }
};
inline void store_without_numbers(const Total& total) {
    if (total.ticket) launch(StoreTotal{{}, total}, 1, Kernel::threads / warp_size * std::int64_t(sizeof(double)));
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
