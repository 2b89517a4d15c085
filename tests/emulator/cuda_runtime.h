// CUDA's words on the host: kernels run as they stand, a block's threads as fibers, block after block.
//
// Barriers, shuffles and shared memory are real: a barrier that some thread of the block never reaches fails the
// launch, shared memory holds NaN when a block begins and is as long as was asked for (the address sanitizer sees its
// ends), and blocks run in descending order. Streams and graphs are not here: every call has finished when it returns,
// and that a capture goes on is only said.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct dim3 {
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    unsigned x, y, z;
};

namespace emulator {

class Block;
inline thread_local dim3 thread_index, block_index, block_size, grid_size;
Block& block();

// A block whose threads run until they wait for each other. A fiber takes one thread after the other while none waits;
// whichever waits keeps its fiber. Each thread of the host has one, for all launches: fibers are dear to make.
class Block {
public:
    void begin_launch(const std::function<void()>& kernel, unsigned threads, std::size_t shared_bytes) {
        kernel_ = kernel;
        threads_ = threads;
        shared_bytes_ = shared_bytes;
        shared_.reset(new unsigned char[shared_bytes]);
        warps_.resize((threads + 31) / 32);
    }

    // False if the block hangs: some threads wait for others that have ended.
    bool run() {
        std::memset(shared_.get(), 0xff, shared_bytes_);
        started_ = ended_ = arrived_ = 0;
        for (Warp& w : warps_) w = Warp{};
        while (ended_ < threads_) {
            Fiber* next = nullptr;
            for (std::size_t k = 0; k < fibers_.size() && !next; ++k, ++turn_) {
                Fiber& fiber = *fibers_[turn_ % fibers_.size()];
                const bool ready = fiber.waits_for ? *fiber.waits_for != fiber.phase : started_ < threads_;
                if (ready) next = &fiber;
            }
            if (!next && started_ < threads_) {
                fibers_.push_back(std::make_unique<Fiber>());
                next = fibers_.back().get();
            }
            if (!next) break;
            resume(*next);
        }
        for (auto& fiber : fibers_) {
            if (fiber->waits_for) fiber.reset(new Fiber);  // of a block that hung
        }
        return ended_ == threads_;
    }

    void barrier() {
        if (++arrived_ == threads_) {
            arrived_ = 0;
            ++phase_;
        } else {
            wait(phase_);
        }
    }

    // Every lane of the mask leaves a word; the word of lane `source` comes back.
    unsigned exchange(unsigned mask, unsigned word, unsigned source) {
        const unsigned lane = thread_index.x % 32;
        Warp& warp = warps_[thread_index.x / 32];
        const unsigned parity = warp.phase & 1, lanes = lanes_of(thread_index.x / 32) & mask;
        warp.word[parity][lane] = word;
        if (++warp.arrived == unsigned(__builtin_popcount(lanes))) {
            warp.arrived = 0;
            ++warp.phase;
        } else {
            wait(warp.phase);
        }
        return lanes >> source & 1 ? warp.word[parity][source] : word;
    }

    unsigned char* shared() const { return shared_.get(); }

private:
    struct Fiber {
        static constexpr std::size_t stack_bytes = 64 * 1024;
        void* place[5];  // where it goes on
        std::unique_ptr<char[]> stack;
        unsigned thread = 0, phase = 0;
        const unsigned* waits_for = nullptr;  // goes on when this is no longer `phase`
        void* fake_stack = nullptr;           // the address sanitizer's
    };
    struct Warp {
        unsigned word[2][32] = {}, arrived = 0, phase = 0;
    };

    unsigned lanes_of(unsigned warp) const {
        const unsigned left = threads_ - 32 * warp;
        return left >= 32 ? 0xffffffffu : (1u << left) - 1;
    }

    void wait(const unsigned& phase) {
        Fiber& self = *current_;
        self.waits_for = &phase;
        self.phase = phase;
        leave(self);
        self.waits_for = nullptr;
        thread_index = dim3(self.thread, 0, 0);
    }

    static void main() {
        Block& b = block();
        arrived_at(nullptr, &b.main_bottom_, &b.main_bytes_);
        while (true) {
            Fiber& self = *b.current_;
            while (b.started_ < b.threads_) {
                self.thread = b.started_++;
                thread_index = dim3(self.thread, 0, 0);
                b.kernel_();
                ++b.ended_;
            }
            b.leave(self);
        }
    }

    void resume(Fiber& fiber) {
        current_ = &fiber;
        const bool begins = !fiber.stack;
        if (begins) fiber.stack.reset(new char[Fiber::stack_bytes]);
        leaving_for(&main_fake_stack_, fiber.stack.get(), Fiber::stack_bytes);
        if (begins) {
            begin(fiber);
        } else {
            go(main_place_, fiber.place);
        }
        arrived_at(main_fake_stack_, nullptr, nullptr);
    }
    void leave(Fiber& fiber) {
        leaving_for(&fiber.fake_stack, main_bottom_, main_bytes_);
        go(fiber.place, main_place_);
        arrived_at(fiber.fake_stack, &main_bottom_, &main_bytes_);
    }

    // A context makes the fiber's stack; from there on jumps are enough, and they ask nothing of the kernel.
    __attribute__((noinline)) void begin(Fiber& fiber) {
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = fiber.stack.get();
        context.uc_stack.ss_size = Fiber::stack_bytes;
        context.uc_link = nullptr;
        makecontext(&context, main, 0);
        if (__builtin_setjmp(main_place_) == 0) setcontext(&context);
    }
    __attribute__((noinline)) static void go(void** from, void** to) {
        if (__builtin_setjmp(from) == 0) jump(to);
    }
    __attribute__((noinline)) static void jump(void** to) { __builtin_longjmp(to, 1); }

#if defined(__SANITIZE_ADDRESS__)
    static void leaving_for(void** fake_stack, const void* bottom, std::size_t bytes) {
        __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
    }
    static void arrived_at(void* fake_stack, const void** bottom, std::size_t* bytes) {
        __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
    }
#else
    static void leaving_for(void**, const void*, std::size_t) {}
    static void arrived_at(void*, const void**, std::size_t*) {}
#endif

    std::function<void()> kernel_;
    unsigned threads_ = 0;
    std::size_t shared_bytes_ = 0;
    std::unique_ptr<unsigned char[]> shared_;
    std::vector<Warp> warps_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    Fiber* current_ = nullptr;
    std::size_t turn_ = 0;  // fibers are asked in turn
    void* main_place_[5];
    void* main_fake_stack_ = nullptr;
    const void* main_bottom_ = nullptr;
    std::size_t main_bytes_ = 0;
    unsigned started_ = 0, ended_ = 0, arrived_ = 0, phase_ = 0;
};

inline Block& block() {
    static thread_local Block block;
    return block;
}
inline unsigned char* shared_memory() { return block().shared(); }

// Devices: two of them, and whose memory is whose.
constexpr int devices = 2;
inline thread_local int device = 0;
inline bool capturing = false, failing = false;
inline int launches = 0;
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
    cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2, cudaMemoryTypeManaged = 3 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
};
using cudaStream_t = struct CUstream_st*;

inline const char* cudaGetErrorName(cudaError_t status) {
    return status == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaError";
}
inline const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorLaunchFailure ? "not every thread of a block reached its barrier" : "invalid argument";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = emulator::capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    *count = emulator::devices;
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = emulator::device;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = 99 * 1024;  // of the least of them
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= emulator::devices) return cudaErrorInvalidDevice;
    emulator::device = device;
    return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** at, std::size_t bytes) {
    *at = std::malloc(bytes ? bytes : 1);
    return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* at) {
    std::free(at);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
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
    return bytes <= 99 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

template <class K>
cudaError_t cudaLaunchKernel(void (*kernel)(K), dim3 grid, dim3 threads, void** arguments, std::size_t shared_bytes,
                             cudaStream_t) {
    static_assert(sizeof(K) <= 32764, "the arguments of a kernel");
    if (emulator::failing) return cudaErrorInvalidConfiguration;
    ++emulator::launches;
    if (grid.x == 0 || grid.x > 0x7fffffffu || threads.x == 0 || threads.x > 1024) return cudaErrorInvalidConfiguration;
    const K& arguments_of_kernel = *static_cast<K*>(arguments[0]);
    emulator::Block& block = emulator::block();
    block.begin_launch([&] { kernel(arguments_of_kernel); }, threads.x, shared_bytes);
    emulator::block_size = threads;
    emulator::grid_size = grid;
    for (unsigned b = grid.x; b-- > 0;) {
        emulator::block_index = dim3(b, 0, 0);
        if (!block.run()) return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}

// For those who make arrays for it: memory of a device, and memory no longer.
extern "C" inline __attribute__((used, visibility("default"))) void smelt_emulator_allocated(const char* at,
                                                                                             std::size_t bytes,
                                                                                             int device) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    emulator::allocations[at] = {bytes, device};
}
extern "C" inline __attribute__((used, visibility("default"))) void smelt_emulator_capture(bool on) {
    emulator::capturing = on;
}
extern "C" inline __attribute__((used, visibility("default"))) int smelt_emulator_launches() {
    return emulator::launches;
}
extern "C" inline __attribute__((used, visibility("default"))) void smelt_emulator_fail(bool on) {
    emulator::failing = on;
}
extern "C" inline __attribute__((used, visibility("default"))) void smelt_emulator_freed(const char* at) {
    const std::lock_guard<std::mutex> lock(emulator::mutex);
    emulator::allocations.erase(at);
}
