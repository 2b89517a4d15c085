// The sum of an array of numbers, in a fixed order.
#pragma once

#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// to[0] = scale * the sum, or the sum divided by a number in device memory. Part of the kernel that writes the numbers:
// its last block adds them.
struct Total {
    double* values = nullptr;
    std::int64_t count = 0;
    double scale = 1;
    const double* denominator = nullptr;
    DoubleView to;
    unsigned* ticket = nullptr;  // null if there is no sum

    // All threads of all blocks call this last. Each block has written `each` numbers, and first adds these.
    GRADFUSE_DEVICE void store(int each = 1) const {
        if (!ticket) return;
        if (each > 1) add_own(each);
        if (!is_last_block(ticket, shared_memory<int>())) return;
        const volatile double* const all = values;  // written by other blocks in this launch
        const std::int64_t blocks = (count + each - 1) / each;
        constexpr int n = 8;  // sums of a thread: more loads in flight, and shorter sums
        double sums[n] = {};
        for (std::int64_t i = threadIdx.x; i < blocks; i += n * std::int64_t(blockDim.x)) {
#pragma unroll
            for (int k = 0; k < n; ++k) {
                const std::int64_t at = i + k * std::int64_t(blockDim.x);
                if (at < blocks) sums[k] += all[at * each];
            }
        }
        double sum = 0;
        for (const double s : sums) sum += s;
        sum = block_reduce(sum, shared_memory<void>(), Add{}, int(blockDim.x));
        if (threadIdx.x == 0) to.set(0, denominator ? sum / *denominator : scale * sum);
    }

private:
    GRADFUSE_DEVICE void add_own(int each) const {
        const std::int64_t first = std::int64_t(blockIdx.x) * each, i = first + threadIdx.x;
        __syncthreads();  // they are written
        const bool exists = int(threadIdx.x) < each && i < count;
        double sum = exists ? const_cast<const volatile double*>(values)[i] : 0;
        sum = block_reduce(sum, shared_memory<void>(), Add{}, int(blockDim.x));
        if (threadIdx.x == 0) values[first] = sum;
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
