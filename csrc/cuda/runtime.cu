// The devices, and the device and stream of a call.
#include <cstring>
#include <iterator>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/launch.h"

namespace gradfuse::cuda {

inline namespace GRADFUSE_ISA {

namespace {

// Kernel arguments are copied when the kernel is queued. So words passed as arguments need no memory after the call.
template <int Most>
struct Write : Kernel {
    static constexpr int most = Most;
    using Word = std::uint32_t;

    Word* to;
    int count;
    Word words[most];

    GRADFUSE_DEVICE void operator()() const {
        const int i = int(blockIdx.x) * threads + int(threadIdx.x);
        if (i < count) to[i] = words[i];
    }
};

struct Draw : Kernel {
    std::uint64_t *count, *slot;

    GRADFUSE_DEVICE void operator()() const {
        if (threadIdx.x == 0) *slot = (*count)++;
    }
};

}  // namespace

}  // namespace GRADFUSE_ISA

namespace {

// Memory for the kernels of a call.
struct Kept {
    unsigned* ticket = nullptr;
    char* workspace = nullptr;
};

#if defined(__SANITIZE_ADDRESS__)
constexpr std::int64_t workspace_bytes = 0;  // so that the sanitizer sees the ends of every workspace
#else
constexpr std::int64_t workspace_bytes = 256 * 1024;
#endif

struct Current {
    int device = -1;
    cudaStream_t stream = nullptr;
    const devices::Scope::Allocate* allocate = nullptr;
    std::list<Kept> kept;   // empty, or the memory that this call has taken
    std::int64_t used = 0;  // of its workspace
};
// The scopes of this thread, the innermost last: to allocate may run Python code that calls gradfuse again.
thread_local std::list<Current> scopes;

Current& current() {
    thread_local Current none;
    return scopes.empty() ? none : scopes.back();
}

std::string text_of(cudaError_t status) {
    return std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
}

}  // namespace

void check(cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears the error, which the next call would report otherwise
    std::string text = "CUDA failed: " + text_of(status);
    if (status == cudaErrorNoKernelImageForDevice) {
        text += ". gradfuse was built with " GRADFUSE_BUILT_CUDA
                "; build it on this machine, with GRADFUSE_CUDA_ARCHITECTURES=native";
    }
    throw Error(text);
}

cudaStream_t current_stream() { return current().stream; }

namespace {

// While this exists, calls that a capture usually forbids are allowed. The capture does not record them.
struct OutsideCapture {
    OutsideCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode)); }
    ~OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode); }
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
};

}  // namespace

void* allocate_outside_capture(std::int64_t bytes) {
    const OutsideCapture outside;
    void* data = nullptr;
    check(cudaMalloc(&data, std::size_t(bytes)));
    return data;
}

void write_outside_capture(void* to, const void* from, std::int64_t bytes) {
    const OutsideCapture outside;
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaError_t status = cudaMemcpyAsync(to, from, std::size_t(bytes), cudaMemcpyDefault, stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    check(status);
}

namespace {

// A counter that no other call has. It is never freed: a graph may read it as long as the process lives.
unsigned* fresh_ticket(int device) {
    static const unsigned zeros[4096] = {};
    struct Block {
        unsigned* next = nullptr;
        std::size_t left = 0;
    };
    static std::mutex mutex;
    static std::map<int, Block> of_device;
    const std::lock_guard<std::mutex> lock(mutex);
    Block& block = of_device[device];
    if (block.left == 0) {
        auto* const data = static_cast<unsigned*>(allocate_outside_capture(sizeof zeros));
        write_outside_capture(data, zeros, sizeof zeros);
        block = {data, std::size(zeros)};
    }
    --block.left;
    return block.next++;
}

// Memory that no call is using, per device and stream. The calls of a stream run one after the other, so the next one
// there may take what a call gives back, even if its kernels still run.
class Idle {
public:
    void take(Current& c) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::list<Kept>& idle = of_stream_[{c.device, c.stream}];
        if (idle.empty()) idle.push_back({fresh_ticket(c.device), nullptr});
        c.kept.splice(c.kept.begin(), idle, idle.begin());
    }
    void give_back(Current& c) {
        if (c.kept.empty()) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        std::list<Kept>& idle = of_stream_.find({c.device, c.stream})->second;
        idle.splice(idle.begin(), c.kept);
    }

private:
    std::mutex mutex_;
    std::map<std::pair<int, cudaStream_t>, std::list<Kept>> of_stream_;
};
Idle idle;

Kept& kept() {
    Current& c = current();
    if (c.kept.empty()) idle.take(c);
    return c.kept.front();
}

}  // namespace

// A graph may run beside the other kernels of its stream.
unsigned* ticket() { return is_capturing() ? fresh_ticket(current().device) : kept().ticket; }

// Large workspaces and those of a graph come from the library that owns the arrays.
void* allocate(std::int64_t bytes) {
    Current& c = current();
    const std::int64_t rounded = (bytes + 255) / 256 * 256;
    if (c.used + rounded > workspace_bytes || is_capturing()) return (*c.allocate)(bytes);
    char*& workspace = kept().workspace;
    if (!workspace) workspace = static_cast<char*>(allocate_outside_capture(workspace_bytes));
    c.used += rounded;
    return workspace + c.used - rounded;
}

namespace {

int attribute(cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, devices::current_device()));
    return value;
}

}  // namespace

std::int64_t most_shared_bytes() { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

}  // namespace gradfuse::cuda

namespace gradfuse::devices {

using cuda::check;
using cuda::launch;

std::string built() { return GRADFUSE_BUILT_CUDA; }

std::string why_not() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        cudaGetLastError();
        return "no GPU can be used here, CUDA says: " + cuda::text_of(status);
    }
    return count > 0 ? "" : "no GPU is here";
}

int current_device() {
    int device = -1;
    check(cudaGetDevice(&device));
    return device;
}

int device_of(const void* pointer) {
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
        cudaGetLastError();
        return -1;
    }
    const bool of_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
    return of_device ? attributes.device : -1;
}

Scope::Scope(int device, std::uintptr_t stream, Allocate allocate)
    : allocate_(std::move(allocate)), previous_(current_device()) {
    if (device != previous_) check(cudaSetDevice(device));
    cuda::scopes.push_back({device, reinterpret_cast<cudaStream_t>(stream), &allocate_, {}, 0});
}

Scope::~Scope() {
    cuda::idle.give_back(cuda::current());
    cuda::scopes.pop_back();
    int device = previous_;
    if (cudaGetDevice(&device) == cudaSuccess && device != previous_) cudaSetDevice(previous_);
}

bool is_capturing() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(cuda::current_stream(), &status));
    return status != cudaStreamCaptureStatusNone;
}

namespace {

void copy(int device, void* to, const void* from, std::int64_t bytes) {
    const int previous = current_device();
    check(cudaSetDevice(device));
    cudaError_t status = cudaDeviceSynchronize();
    if (status == cudaSuccess) status = cudaMemcpy(to, from, std::size_t(bytes), cudaMemcpyDefault);
    cudaSetDevice(previous);
    check(status);
}

}  // namespace

void read(int device, void* to, const void* from, std::int64_t bytes) { copy(device, to, from, bytes); }
void set(int device, void* to, const void* from, std::int64_t bytes) { copy(device, to, from, bytes); }

template <class Kernel>
void write_with(void* to, const void* from, std::int64_t words) {
    using Word = typename Kernel::Word;
    Kernel kernel;
    for (std::int64_t done = 0; done < words; done += kernel.most) {
        kernel.to = static_cast<Word*>(to) + done;
        kernel.count = int(words - done < kernel.most ? words - done : kernel.most);
        std::memcpy(kernel.words, static_cast<const Word*>(from) + done, std::size_t(kernel.count) * sizeof(Word));
        launch(kernel, cuda::blocks_for(kernel.count, kernel.threads));
    }
}

void write(void* to, const void* from, std::int64_t bytes) {
    const std::int64_t words = bytes / 4;
    if (words <= 128) {
        write_with<cuda::Write<128>>(to, from, words);
    } else {
        write_with<cuda::Write<7680>>(to, from, words);
    }
}

void draw(std::uint64_t* count, std::uint64_t* slot) { launch(cuda::Draw{{}, count, slot}, 1); }

}  // namespace gradfuse::devices
