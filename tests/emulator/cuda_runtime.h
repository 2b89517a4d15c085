// CUDA's words on the host: kernels run as they stand, block after block in descending order.
//
// Barriers, shuffles and shared memory are real (block.h), and so is a fault: after one every call fails. Streams are
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

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

namespace emulator {

// Devices: two of them, and whose memory is whose.
constexpr int devices = 2;
inline thread_local int device = 0;
inline bool capturing = false, failing = false, faulted = false;
inline int launches = 0;
inline int shared_bytes = 227 * 1024;             // the most that a block may have: of compute capability 9.0
inline std::vector<std::function<void()>> graph;  // the launches of the last capture
struct Allocation {
    std::size_t bytes;
    int device;
};
inline std::mutex mutex;
inline std::map<const char*, Allocation> allocations;

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::block().barrier(); }
inline unsigned __shfl_xor_sync(unsigned mask, unsigned word, int lanes) {
    return emulator::block().exchange(mask, word, (emulator::thread_index.x % 32) ^ unsigned(lanes));
}
inline unsigned __ballot_sync(unsigned mask, bool vote) { return emulator::block().ballot(mask, vote); }
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
    cudaErrorMisalignedAddress = 716,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2, cudaMemoryTypeManaged = 3 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
using cudaStream_t = struct CUstream_st*;

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
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    return *value = emulator::shared_bytes, cudaSuccess;
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

template <class K>
cudaError_t run_kernel(void (*kernel)(K), dim3 grid, dim3 threads, const K& arguments, std::size_t shared_bytes) {
    ++emulator::launches;
    emulator::Block& block = emulator::block();
    block.begin_launch([&] { kernel(arguments); }, threads.x, shared_bytes);
    emulator::block_size = threads;
    emulator::grid_size = grid;
    for (unsigned b = grid.x; b-- > 0;) {
        emulator::block_index = dim3(b, 0, 0);
        if (block.run()) continue;
        emulator::faulted = block.misaligned();
        return emulator::faulted ? cudaErrorMisalignedAddress : cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}
// A launch during a capture runs too, and again at each replay.
template <class K>
cudaError_t cudaLaunchKernel(void (*kernel)(K), dim3 grid, dim3 threads, void** arguments, std::size_t shared_bytes,
                             cudaStream_t) {
    static_assert(sizeof(K) <= 32764, "the arguments of a kernel");
    if (emulator::faulted) return context_status();
    if (emulator::failing) return cudaErrorInvalidConfiguration;
    if (grid.x == 0 || grid.x > 0x7fffffffu || threads.x == 0 || threads.x > 1024) return cudaErrorInvalidConfiguration;
    const K& of_kernel = *static_cast<K*>(arguments[0]);
    if (emulator::capturing) {
        emulator::graph.push_back([=] { run_kernel(kernel, grid, threads, of_kernel, shared_bytes); });
    }
    return run_kernel(kernel, grid, threads, of_kernel, shared_bytes);
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
    return cudaLaunchKernel(emulator::read, dim3(1), dim3(1), arguments, 0, nullptr);
}
GRADFUSE_EXPORTED bool gradfuse_emulator_is_capturing() { return emulator::capturing; }
GRADFUSE_EXPORTED void gradfuse_emulator_fault(bool on) { emulator::faulted = on; }
GRADFUSE_EXPORTED bool gradfuse_emulator_has_faulted() { return emulator::faulted; }
GRADFUSE_EXPORTED void gradfuse_emulator_fail(bool on) { emulator::failing = on; }
GRADFUSE_EXPORTED void gradfuse_emulator_limit_shared(int bytes) { emulator::shared_bytes = bytes; }
GRADFUSE_EXPORTED int gradfuse_emulator_launches() { return emulator::launches; }
