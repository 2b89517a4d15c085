// How a kernel is started. A kernel is a struct: its members are the arguments, `threads` is the block size, and
// operator() is the code of a thread. This file uses only CUDA functions that tests/emulator has too.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/config.h"
#include "core/devices.h"

#if defined(__CUDACC__)
#define GRADFUSE_KERNEL(entry) reinterpret_cast<const void*>(entry)
#define GRADFUSE_CALLED __device__ __noinline__  // a function that is never inlined
#else
#define GRADFUSE_CALLED
#define __grid_constant__
#define GRADFUSE_KERNEL(entry) entry
#endif
#define GRADFUSE_DEVICE __device__ __forceinline__

namespace gradfuse::cuda {

using devices::Error;
using devices::is_capturing;
using devices::write;

// Throws Error if a call failed.
void check(cudaError_t status);

cudaStream_t current_stream();
void* allocate(std::int64_t bytes);
std::int64_t most_shared_bytes();  // the limit for a block on the current device
int multiprocessors();             // of the current device

// Memory to be freed with cudaFree, and a copy that has finished when it returns. Both are allowed during a capture,
// and a graph does not repeat them.
void* allocate_outside_capture(std::int64_t bytes);
void write_outside_capture(void* to, const void* from, std::int64_t bytes);

// A counter in device memory for the kernels of this call. It is 0 before each of them and must be 0 after it.
unsigned* ticket();

template <class T>
T* allocate_array(std::int64_t n) {
    return static_cast<T*>(allocate(n * std::int64_t(sizeof(T))));
}

inline namespace GRADFUSE_ISA {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, Kernel::blocks_per_multiprocessor)
    entry(const __grid_constant__ Kernel kernel) {
    kernel();
}

// The block's shared memory, of the size given to the launch.
template <class T>
GRADFUSE_DEVICE T* shared_memory() {
#if defined(__CUDACC__)
    extern __shared__ __align__(16) unsigned char bytes[];
#else
    unsigned char* const bytes = emulator::shared_memory();
#endif
    return reinterpret_cast<T*>(bytes);
}

constexpr std::int64_t most_blocks = 0x7fffffff;

// The number of blocks if each takes `per_block` elements. It is limited; a kernel's loop then covers the rest.
inline std::int64_t blocks_for(std::int64_t elements, std::int64_t per_block, std::int64_t most = most_blocks) {
    const std::int64_t blocks = (elements + per_block - 1) / per_block;
    return blocks < most ? blocks : most;
}

// The base of kernels with the default launch bounds.
struct Kernel {
    static constexpr int threads = 256, blocks_per_multiprocessor = 1;
};

// The most blocks of a cluster: 8 on every GPU that has clusters, unless the kernel was compiled for older GPUs.
template <class K>
int most_cluster() {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, entry<K>));
    return attributes.ptxVersion >= 90 ? 8 : 1;
}

template <class K>
void launch(const K& kernel, std::int64_t blocks, std::int64_t shared_bytes = 0, int threads = K::threads,
            int cluster = 1) {
    if (blocks == 0) return;
    if (shared_bytes > 48 * 1024) {  // sets the maximum, because another thread may need more than this one
        check(cudaFuncSetAttribute(entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(most_shared_bytes())));
    }
    cudaLaunchAttribute of_cluster;
    of_cluster.id = cudaLaunchAttributeClusterDimension;
    of_cluster.val.clusterDim.x = unsigned(cluster);
    of_cluster.val.clusterDim.y = of_cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(blocks));
    config.blockDim = dim3(unsigned(threads));
    config.dynamicSmemBytes = std::size_t(shared_bytes);
    config.stream = current_stream();
    config.attrs = &of_cluster;
    config.numAttrs = cluster > 1;
    void* arguments[] = {const_cast<K*>(&kernel)};
    check(cudaLaunchKernelExC(&config, GRADFUSE_KERNEL(entry<K>), arguments));
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
