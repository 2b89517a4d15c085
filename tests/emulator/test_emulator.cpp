// The emulator must fail where a GPU would, and index arithmetic must hold beyond 2^31 elements. Each case is a word of
// the command line; it prints what happened.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "hardware.h"  // before math.h, as in the kernels' build
//
#include "cuda/approximate.cuh"
#include "cuda/reduce.cuh"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

using namespace gradfuse;
using namespace gradfuse::cuda;

// What the bindings' scopes would give.
namespace gradfuse::cuda {
void check(cudaError_t status) {
    if (status != cudaSuccess) std::printf("error: %s\n", cudaGetErrorString(status));
}
cudaStream_t current_stream() { return nullptr; }
void* allocate(std::int64_t) { return nullptr; }
std::int64_t most_shared_bytes() { return 99 * 1024; }
int multiprocessors() { return 1; }
}  // namespace gradfuse::cuda

namespace {

// Thread t of 64 sums 1 .. 64 by shuffles and shared memory.
struct Sum : Kernel {
    double* out;
    int count;

    void operator()() const {
        const double total = block_reduce(double(threadIdx.x + 1), shared_memory<double>(), Add{}, count);
        out[blockIdx.x * threads + threadIdx.x] = total;
    }
};

struct SomeSkipTheBarrier : Kernel {
    void operator()() const {
        if (threadIdx.x != 7) __syncthreads();
    }
};

struct SomeSkipTheShuffle : Kernel {
    void operator()() const {
        if (threadIdx.x != 7) __shfl_xor_sync(full_warp, 1u, 1);
    }
};

struct ReadsSharedMemoryBeforeItIsWritten : Kernel {
    float* out;
    void operator()() const {
        if (threadIdx.x == 0) *out = shared_memory<float>()[3];
    }
};

struct WritesBeyondSharedMemory : Kernel {
    void operator()() const {
        if (threadIdx.x == 0) shared_memory<volatile float>()[4] = 1;
    }
};

// One thread's access, while others wait at a barrier.
template <bool Writes>
struct Touches : Kernel {
    void* at;
    bool wide;  // in one access of 16 bytes, else element by element
    void operator()() const {
        float x[4] = {1, 1, 1, 1};
        const View<float> view(at, wide);
        if (threadIdx.x == 7) Writes ? view.write(0, 4, true, x) : view.read(0, 4, true, x);
        __syncthreads();
    }
};

void touch(const char* access) {
    alignas(16) char memory[48] = {};
    const bool writes = std::strchr(access, 'w'), wide = std::strchr(access, '4');
    void* const at = memory + std::atoi(std::strchr(access, '+'));
    writes ? launch(Touches<true>{{}, at, wide}, 1) : launch(Touches<false>{{}, at, wide}, 1);
    std::printf("%swritten\n", memory[19] ? "" : "nothing ");
    launch(Touches<false>{{}, memory, true}, 1);  // a good one
}

void reduce() {
    static double out[2 * Kernel::threads];
    for (const int width : {2, 32, 64, 256}) {
        launch(Sum{{}, out, width}, 2, Kernel::threads / warp_size * std::int64_t(sizeof(double)));
        bool right = true;
        for (int t = 0; t < 2 * Kernel::threads; ++t) {
            const int first = t % Kernel::threads / width * width;  // neighbours first + 1 .. first + width
            right = right && out[t] == width * (2.0 * first + width + 1) / 2;
        }
        std::printf("%d: %s\n", width, right ? "right" : "wrong");
    }
}

// Of an array with three times 2^31 elements and no memory behind it.
void index() {
    Array a;
    a.ndim = 3;
    a.dense = false;
    a.size = 1;
    const std::int64_t shape[] = {3, std::int64_t(1) << 16, std::int64_t(1) << 15};
    for (int d = 2, step = 4; d >= 0; --d) {
        a.shape[d] = shape[d];
        a.size *= shape[d];
        a.strides[d] = d == 2 ? 2 * step : a.strides[d + 1] * shape[d + 1] + 4;
    }
    const Strides strides(a);
    bool right = true;
    for (std::int64_t i = 0; i < a.size; i += 999999937) {
        const std::int64_t k = i % shape[2], j = i / shape[2] % shape[1], o = i / shape[2] / shape[1];
        right = right && strides.offset(i) == o * a.strides[0] + j * a.strides[1] + k * a.strides[2];
    }
    const std::int64_t last = a.size - 1;
    right = right &&
            strides.offset(last) == 2 * a.strides[0] + (shape[1] - 1) * a.strides[1] + (shape[2] - 1) * a.strides[2];
    for (const std::int64_t size : {std::int64_t(1) << 30, std::int64_t(1) << 40}) {
        for (const std::int64_t divisor : {std::int64_t(1), std::int64_t(7), std::int64_t(1) << 31}) {
            const Divider d(divisor, size);
            for (const std::int64_t i : {std::int64_t(0), divisor - 1, divisor, size - 1})
                right = right && d.divide(i) == i / divisor;
        }
    }
    std::printf("%s\n", right ? "right" : "wrong");
}

// Quotients of all sizes, denormal numbers included.
void quotient() {
    bool right = true;
    for (int i = -149; i < 128; ++i) {
        for (int j = -149; j < 128; ++j) {
            const float a = std::ldexp(1.5f, i), b = std::ldexp(1.25f, j), q = float(Approximate(a) / Approximate(b));
            const double exact = double(a) / double(b), error = std::fabs(double(q) - exact);
            const bool beyond = exact > 3.4e38;
            right = right && (beyond ? q > 3.3e38f : error <= exact * 0x1p-20 + 0x1p-148);
        }
    }
    std::printf("%s\n", right ? "right" : "wrong");
}

// Thread t of a warp accesses `bytes` bytes at word t * stride.
struct AccessesWords : Kernel {
    int bytes, stride;
    void operator()() const {
        if (threadIdx.x < unsigned(warp_size)) count_banks(shared_memory<float>() + int(threadIdx.x) * stride, bytes);
    }
};

void banks() {
    const int accesses[][2] = {{4, 1}, {4, 0}, {4, 2}, {4, 3}, {4, 32}, {8, 2}, {8, 4}, {16, 4}, {16, 8}, {16, 0}};
    for (const auto [bytes, stride] : accesses) {
        gradfuse_emulator_count_banks(true);
        launch(AccessesWords{{}, bytes, stride}, 1, 32 * 32 * 4);
        gradfuse_emulator_count_banks(false);
        std::printf("%d bytes at every %d words: %d\n", bytes, stride, gradfuse_emulator_banks());
    }
}

// Each block of a cluster of four reads the number of the block after it.
template <bool Waits>
struct AsksItsNeighbor : Kernel {
    int* out;
    void operator()() const {
        const SharedArray<int> own(shared_memory<void>(), 1);
        const int rank = int(blockIdx.x) % 4;
        if (threadIdx.x == 0) own.set(0, int(blockIdx.x));
        cluster_barrier();
        if (threadIdx.x == 0) out[blockIdx.x] = own.get(0, (rank + 1) % 4);
        if (Waits) cluster_barrier();
    }
};
template <bool Waits>
void cluster() {
    int out[8];
    launch(AsksItsNeighbor<Waits>{{}, out}, 8, 4, Kernel::threads, 4);
    for (const int o : out) std::printf("%d ", o);
    std::printf("\n");
}

// The copy is there when it has been waited for, and not before.
struct Copies : Kernel {
    const float* from;
    float* out;
    void operator()() const {
        if (threadIdx.x > 0) return;
        float* const shared = shared_memory<float>();
        start_copy(shared, from);
        end_group_of_copies();
        start_copy(shared + 4, from + 4);
        end_group_of_copies();
        wait_for_copies(1);
        out[0] = shared[3], out[1] = shared[4];
        wait_for_copies(0);
        out[2] = shared[4];
    }
};
void copies(bool aligned) {
    alignas(16) const float from[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    float out[3] = {};
    launch(Copies{{}, from + !aligned, out}, 1, 32);
    std::printf("%g %g %g\n", double(out[0]), double(out[1]), double(out[2]));
}

}  // namespace

int main(int, char** arguments) {
    const auto is = [&](const char* word) { return std::strcmp(arguments[1], word) == 0; };
    if (is("reduce")) reduce();
    if (is("index")) index();
    if (is("quotient")) quotient();
    if (is("barrier")) launch(SomeSkipTheBarrier{}, 1);
    if (is("shuffle")) launch(SomeSkipTheShuffle{}, 1);
    if (is("shared")) {
        float out = 0;
        launch(ReadsSharedMemoryBeforeItIsWritten{{}, &out}, 1, 16);
        std::printf("%s\n", out != out ? "nan" : "a number");
    }
    if (is("beyond")) launch(WritesBeyondSharedMemory{}, 1, 16);
    if (is("banks")) banks();
    if (is("cluster")) cluster<true>();
    if (is("deserted cluster")) cluster<false>();
    if (is("copies")) copies(true);
    if (is("misaligned copies")) copies(false);
    if (is("touch")) touch(arguments[2]);
}
