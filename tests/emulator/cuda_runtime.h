// CUDA's words on the host: kernels run as they stand, cluster after cluster in descending order.
//
// Barriers, shuffles and shared memory are real (cluster.h), and so is a fault: after one every call fails. Streams are
// not here: every call has finished when it returns.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cluster.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

namespace emulator {

// Devices: two of them, and whose memory is whose.
constexpr int devices = 2, multiprocessors = 2;
inline thread_local int device = 0;
inline bool capturing = false, failing = false, faulted = false;
inline int launches = 0, largest_cluster = 0, allocated = 0;
inline int compute_capability = 90, shared_bytes = 227 * 1024;  // the most that a block may have
inline std::vector<std::function<void()>> graph;                // the launches of the last capture
struct Allocation {
    std::size_t bytes;
    int device;
};
inline std::mutex mutex;
inline std::map<const char*, Allocation> allocations;

}  // namespace emulator

inline void __syncthreads() { emulator::cluster().barrier(); }
inline void __cluster_barrier_arrive() { emulator::cluster().arrive(); }
inline void __cluster_barrier_wait() { emulator::cluster().wait_for_all(); }
inline void* __cluster_map_shared_rank(const void* at, unsigned rank) { return emulator::cluster().of_rank(at, rank); }
inline unsigned __shfl_xor_sync(unsigned mask, unsigned word, int lanes) {
    return emulator::cluster().exchange(mask, word, (threadIdx.x % 32) ^ unsigned(lanes));
}
inline unsigned __ballot_sync(unsigned mask, bool vote) { return emulator::cluster().ballot(mask, vote); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void __threadfence() {}
template <class T>
T atomicAdd(T* at, T value) {
    const T before = *at;
    *at += value;
    return before;
}

// ---- the runtime

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorMisalignedAddress = 716,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2, cudaMemoryTypeManaged = 3 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
struct cudaFuncAttributes {
    int ptxVersion;
};
using cudaStream_t = struct CUstream_st*;
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        struct {
            unsigned x, y, z;
        } clusterDim;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

namespace emulator {
inline thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
}

inline const char* cudaGetErrorName(cudaError_t status) {
    if (status == cudaErrorMisalignedAddress) return "cudaErrorMisalignedAddress";
    return status == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaError";
}
inline const char* cudaGetErrorString(cudaError_t status) {
    if (status == cudaErrorMisalignedAddress) return "misaligned address";
    return status == cudaErrorLaunchFailure ? "not every thread of a block reached its barrier" : "invalid argument";
}
// Of a context that has seen a fault.
inline cudaError_t context_status() { return emulator::faulted ? cudaErrorMisalignedAddress : cudaSuccess; }
inline cudaError_t cudaGetLastError() { return context_status(); }
inline cudaError_t cudaDeviceSynchronize() { return context_status(); }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = emulator::capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return context_status();
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = emulator::devices, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = emulator::device, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::multiprocessors : emulator::shared_bytes;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= emulator::devices) return cudaErrorInvalidDevice;
    emulator::device = device;
    return cudaSuccess;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    std::swap(*mode, emulator::mode);
    return context_status();
}
// Of a call that a capture forbids unless the thread's mode is relaxed.
inline cudaError_t outside_capture() {
    const bool forbidden = emulator::capturing && emulator::mode != cudaStreamCaptureModeRelaxed;
    return forbidden ? cudaErrorStreamCaptureUnsupported : context_status();
}
inline cudaError_t cudaMalloc(void** at, std::size_t bytes) {
    if (outside_capture() != cudaSuccess) return outside_capture();
    ++emulator::allocated;
    *at = std::malloc(bytes ? bytes : 1);
    return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* at) {
    std::free(at);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
    if (!emulator::faulted) std::memcpy(to, from, bytes);
    return context_status();
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = nullptr;
    return outside_capture();
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return outside_capture(); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return outside_capture() == cudaSuccess ? cudaMemcpy(to, from, bytes, kind) : outside_capture();
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    *attributes = {cudaMemoryTypeUnregistered, -1};
    auto found = emulator::allocations.upper_bound(static_cast<const char*>(at));
    if (found == emulator::allocations.begin()) return cudaSuccess;
    --found;
    if (static_cast<const char*>(at) < found->first + found->second.bytes) {
        *attributes = {cudaMemoryTypeDevice, found->second.device};
    }
    return cudaSuccess;
}
template <class Function>
cudaError_t cudaFuncSetAttribute(Function*, cudaFuncAttribute, int bytes) {
    return bytes <= emulator::shared_bytes ? cudaSuccess : cudaErrorInvalidValue;
}
template <class Function>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Function*) {
    attributes->ptxVersion = emulator::compute_capability;
    return context_status();
}

template <class K>
cudaError_t run_kernel(void (*kernel)(K), const cudaLaunchConfig_t& config, unsigned blocks_of_cluster,
                       const K& arguments) {
    ++emulator::launches;
    emulator::largest_cluster = std::max(emulator::largest_cluster, int(blocks_of_cluster));
    emulator::Cluster& cluster = emulator::cluster();
    cluster.begin_launch([&] { kernel(arguments); }, config.blockDim.x, config.dynamicSmemBytes, blocks_of_cluster);
    blockDim = config.blockDim;
    gridDim = config.gridDim;
    for (unsigned b = config.gridDim.x; b > 0;) {
        if (cluster.run(b -= blocks_of_cluster)) continue;
        emulator::faulted = cluster.misaligned();
        return emulator::faulted ? cudaErrorMisalignedAddress : cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}
// A launch during a capture runs too, and again at each replay.
template <class K>
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* given, void (*kernel)(K), void** arguments) {
    static_assert(sizeof(K) <= 32764, "the arguments of a kernel");
    if (emulator::faulted) return context_status();
    const cudaLaunchConfig_t config = *given;
    const unsigned blocks = config.gridDim.x, threads = config.blockDim.x,
                   of_cluster = config.numAttrs ? config.attrs->val.clusterDim.x : 1;
    const bool clusters_exist = emulator::compute_capability >= 90 && of_cluster <= 8 && blocks % of_cluster == 0;
    const bool possible = blocks > 0 && blocks <= 0x7fffffffu && threads > 0 && threads <= 1024 &&
                          config.dynamicSmemBytes <= std::max<std::size_t>(emulator::shared_bytes, 48 * 1024) &&
                          (of_cluster == 1 || clusters_exist);
    if (emulator::failing || !possible) return cudaErrorInvalidConfiguration;
    const K& of_kernel = *static_cast<K*>(arguments[0]);
    if (emulator::capturing) {
        emulator::graph.push_back([=] { run_kernel(kernel, config, of_cluster, of_kernel); });
    }
    return run_kernel(kernel, config, of_cluster, of_kernel);
}

namespace emulator {
struct Read {
    const float* from;
    float* to;
};
inline void read(Read r) { *r.to = *r.from; }
}  // namespace emulator

// For those who make arrays for it: memory of a device, and memory no longer.
#define GRADFUSE_EXPORTED extern "C" inline __attribute__((used, visibility("default")))
GRADFUSE_EXPORTED void gradfuse_emulator_allocated(const char* at, std::size_t bytes, int device) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    emulator::allocations[at] = {bytes, device};
}
GRADFUSE_EXPORTED void gradfuse_emulator_freed(const char* at) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    emulator::allocations.erase(at);
}
GRADFUSE_EXPORTED void gradfuse_emulator_capture(bool on) {
    if (on) emulator::graph.clear();
    emulator::capturing = on;
}
GRADFUSE_EXPORTED void gradfuse_emulator_replay() {
    for (const auto& launch : emulator::graph) launch();
}
GRADFUSE_EXPORTED bool gradfuse_emulator_checks_alignment() {
#if defined(GRADFUSE_CHECKS_ALIGNMENT)
    return true;
#else
    return false;
#endif
}
GRADFUSE_EXPORTED int gradfuse_emulator_read(const float* at) {  // in a kernel
    float value;
    emulator::Read kernel{at, &value};
    void* arguments[] = {&kernel};
    const cudaLaunchConfig_t config = {};
    return cudaLaunchKernelExC(&config, emulator::read, arguments);
}
GRADFUSE_EXPORTED bool gradfuse_emulator_is_capturing() { return emulator::capturing; }
GRADFUSE_EXPORTED void gradfuse_emulator_fault(bool on) { emulator::faulted = on; }
GRADFUSE_EXPORTED bool gradfuse_emulator_has_faulted() { return emulator::faulted; }
GRADFUSE_EXPORTED void gradfuse_emulator_fail(bool on) { emulator::failing = on; }
GRADFUSE_EXPORTED void gradfuse_emulator_device(int compute_capability, int shared_bytes) {
    emulator::largest_cluster = 0;
    emulator::compute_capability = compute_capability;
    emulator::shared_bytes = shared_bytes;
}
// While on: counts what gradfuse_emulator_banks returns, the most words that an access found in one bank.
GRADFUSE_EXPORTED void gradfuse_emulator_count_banks(bool on) {
    if (on) emulator::banks.restart();
    emulator::banks.on = on;
}
GRADFUSE_EXPORTED int gradfuse_emulator_banks() { return emulator::banks.most(); }
GRADFUSE_EXPORTED int gradfuse_emulator_bank_accesses() { return int(emulator::banks.counted()); }
GRADFUSE_EXPORTED int gradfuse_emulator_largest_cluster() { return emulator::largest_cluster; }
GRADFUSE_EXPORTED int gradfuse_emulator_allocated_by_cuda() { return emulator::allocated; }  // times
GRADFUSE_EXPORTED int gradfuse_emulator_launches() { return emulator::launches; }
