// Shared memory: arrays in which the threads of a warp never meet in one bank, copies that need no registers, and the
// arrays of the other blocks of a cluster.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/launch.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The tests count the banks of every access.
#if defined(__CUDACC__)
GRADFUSE_DEVICE void count_banks(const void*, int) {}
#else
using emulator::count_banks;
#endif

// Copies 16 bytes from device memory. The copy has finished for this thread when wait_for_copies returns; then only the
// last `open` groups of copies may still run.
GRADFUSE_DEVICE void start_copy(void* to, const void* from) {
    count_banks(to, 16);
#if !defined(__CUDACC__)
    emulator::cluster().start_copy(to, from);
#elif defined(__CUDA_ARCH__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
#endif
}
GRADFUSE_DEVICE void end_group_of_copies() {
#if !defined(__CUDACC__)
    emulator::cluster().end_group_of_copies();
#elif defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
constexpr int most_open_copies = 3;
GRADFUSE_DEVICE void wait_for_copies(int open) {
#if !defined(__CUDACC__)
    emulator::cluster().wait_for_copies(std::size_t(open));
#elif defined(__CUDA_ARCH__)
    if (open == 3) {
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    } else if (open == 2) {
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    } else if (open == 1) {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
#endif
}

// Neighboring blocks of a launch that run at the same time. A GPU before compute capability 9.0 has no clusters.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr bool has_clusters = true;
GRADFUSE_DEVICE void cluster_barrier() {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
}
template <class T>
GRADFUSE_DEVICE const T* in_block(const T* shared, int rank) {
    return static_cast<const T*>(__cluster_map_shared_rank(shared, unsigned(rank)));
}
#else
constexpr bool has_clusters = false;
GRADFUSE_DEVICE void cluster_barrier() {}
template <class T>
GRADFUSE_DEVICE const T* in_block(const T* shared, int) {
    return shared;
}
#endif

// An array of `count` values, word by word: first the first word of every value.
template <class T>
class SharedArray {
public:
    GRADFUSE_DEVICE SharedArray(void* at, int count) : words_(static_cast<unsigned*>(at)), count_(count) {}
    static GRADFUSE_HD std::int64_t bytes(std::int64_t count) { return count * std::int64_t(sizeof(T)); }

    GRADFUSE_DEVICE void set(int i, const T& value) const {
        unsigned words[n];
        memcpy(words, &value, sizeof value);
#pragma unroll
        for (int k = 0; k < n; ++k) {
            count_banks(words_ + k * count_ + i, 4);
            words_[k * count_ + i] = words[k];
        }
    }
    GRADFUSE_DEVICE T get(int i) const { return read(words_, i); }
    // The value in the array of another block of the cluster.
    GRADFUSE_DEVICE T get(int i, int rank) const { return read(in_block(words_, rank), i); }

private:
    static constexpr int n = int(sizeof(T) / sizeof(unsigned));
    static_assert(sizeof(T) % sizeof(unsigned) == 0);

    GRADFUSE_DEVICE T read(const unsigned* from, int i) const {
        unsigned words[n];
#pragma unroll
        for (int k = 0; k < n; ++k) {
            if (from == words_) count_banks(from + k * count_ + i, 4);
            words[k] = from[k * count_ + i];
        }
        T value;
        memcpy(&value, words, sizeof value);
        return value;
    }

    unsigned* words_;
    int count_;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
