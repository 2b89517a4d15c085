// One launch over the elements of many tensors: blocks take one chunk after the other from a table in device memory.
//
// An optimizer keeps its table between calls. Then only changed entries are written again: in most training loops a few
// pointers, or nothing.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/backend.h"
#include "cuda/reduce.cuh"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// One tensor in the table.
struct TensorRow {
    char* parameter;
    void* state[OptimizerInfo::max_slots];
    float* master;
    const Strides *parameter_strides, *gradient_strides;  // null if dense
    std::int64_t first_chunk, chunk_count;
    int group;
    DType dtype;
    bool wide,
        aligned;  // parameter and gradient: wide if dense and on a boundary of 16 bytes; aligned if each element is
};

// An element at any address, also a misaligned one.
template <class S>
struct Place {
    char* data;
    const Strides* strides;
    bool aligned;

    GRADFUSE_DEVICE S get(std::int64_t i) const {
        const char* const from = at(i);
        if (aligned) return *reinterpret_cast<const S*>(from);
        S s;
        memcpy(&s, from, sizeof(S));
        return s;
    }
    GRADFUSE_DEVICE void set(std::int64_t i, S s) const {
        char* const to = at(i);
        if (aligned) {
            *reinterpret_cast<S*>(to) = s;
        } else {
            memcpy(to, &s, sizeof(S));
        }
    }

private:
    GRADFUSE_DEVICE char* at(std::int64_t i) const {
        return data + (strides ? strides->offset(i) : i * std::int64_t(sizeof(S)));
    }
};

struct DeviceTable {
    const TensorRow* tensors;
    char* const* gradients;
    const Chunk* chunks;
    int chunk_count, tensor_count;
};

// A tensor's gradient and parameter, in vectors of V for wide tensors, otherwise in single elements.
template <class S, int V>
struct Vectors {
    static constexpr int count = V;
    View<S> gradient, parameter;

    GRADFUSE_DEVICE Vectors(const TensorRow& t, char* g) : gradient(g, true), parameter(t.parameter, true) {}
    GRADFUSE_DEVICE void read_gradient(std::int64_t i, Compute<S> (&to)[V]) const { gradient.read(i, V, true, to); }
    GRADFUSE_DEVICE void read_parameter(std::int64_t i, Compute<S> (&to)[V]) const { parameter.read(i, V, true, to); }
    GRADFUSE_DEVICE void write_gradient(std::int64_t i, const Compute<S> (&from)[V]) const {
        gradient.write(i, V, true, from);
    }
    GRADFUSE_DEVICE void write_parameter(std::int64_t i, const Compute<S> (&from)[V]) const {
        parameter.write(i, V, true, from);
    }
};
template <class S>
struct Singles {
    static constexpr int count = 1;
    Place<S> gradient, parameter;

    GRADFUSE_DEVICE Singles(const TensorRow& t, char* g)
        : gradient{g, t.gradient_strides, t.aligned}, parameter{t.parameter, t.parameter_strides, t.aligned} {}
    GRADFUSE_DEVICE void read_gradient(std::int64_t i, Compute<S> (&to)[1]) const { to[0] = load(gradient, i); }
    GRADFUSE_DEVICE void read_parameter(std::int64_t i, Compute<S> (&to)[1]) const { to[0] = load(parameter, i); }
    GRADFUSE_DEVICE void write_gradient(std::int64_t i, const Compute<S> (&from)[1]) const {
        gradient.set(i, Storage<S>::store(from[0]));
    }
    GRADFUSE_DEVICE void write_parameter(std::int64_t i, const Compute<S> (&from)[1]) const {
        parameter.set(i, Storage<S>::store(from[0]));
    }

private:
    GRADFUSE_DEVICE static Compute<S> load(const Place<S>& from, std::int64_t i) {
        return Storage<S>::template load<Compute<S>>(from.get(i));
    }
};

// Device memory, for one call or longer. Memory that outlives a call is freed only with this object, because a captured
// graph may still read memory from before it grew.
class DeviceMemory {
public:
    explicit DeviceMemory(bool own) : own_(own) {}
    ~DeviceMemory() {
        for (void* data : all_) cudaFree(data);
    }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* data() const { return data_; }
    // If the memory grows, its contents are lost.
    bool reserve(std::int64_t bytes) {
        if (bytes <= bytes_) return false;
        if (own_) {
            void* data = nullptr;
            check(cudaMalloc(&data, std::size_t(bytes)));
            all_.push_back(data);
            data_ = data;
        } else {
            data_ = allocate(bytes);
        }
        bytes_ = bytes;
        return true;
    }

private:
    const bool own_;
    void* data_ = nullptr;
    std::int64_t bytes_ = 0;
    std::vector<void*> all_;
};

// An array in device memory, and a copy of its last contents.
template <class T>
class Mirror {
public:
    explicit Mirror(bool own) : memory_(own) {}

    // Writes the range from the first to the last changed element; or `all`, if a graph may have written the array.
    T* update(const T* values, std::int64_t n, bool all = false) {
        const bool grown = memory_.reserve(n * std::int64_t(sizeof(T)));
        std::int64_t first = 0, last = n;
        if (!all && !grown && holds(n)) {
            while (first < n && same(written_[std::size_t(first)], values[first])) ++first;
            while (last > first && same(written_[std::size_t(last - 1)], values[last - 1])) --last;
        }
        if (last > first) {
            written_.clear();  // if the write fails, the next call writes everything
            write(data() + first, values + first, (last - first) * std::int64_t(sizeof(T)));
        }
        written_.assign(values, values + n);
        return data();
    }
    bool holds(std::int64_t n) const { return std::int64_t(written_.size()) == n; }
    bool holds(const T* values, std::int64_t n) const {
        return holds(n) && std::equal(values, values + n, written_.begin(), same);
    }
    T* data() const { return static_cast<T*>(memory_.data()); }

private:
    static bool same(const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }

    DeviceMemory memory_;
    std::vector<T> written_;
};

class Tables : public Resident {
public:
    // std::invalid_argument while a graph is captured: the first step must come before, because it allocates.
    explicit Tables(bool own)
        : tensors_(own),
          gradients_(own),
          chunks_(own),
          strides_(own),
          groups_(own),
          tickets_(own),
          sums_(own),
          own_(own) {
        if (own && is_capturing()) {
            throw std::invalid_argument(
                "a step must have been taken before a CUDA graph is captured, with gradients for the "
                "same parameters");
        }
    }

    DeviceTable update(const ChunkTable& table);

    // A graph must only read the groups. If it wrote them, each replay would restore the values of the capture.
    const GroupStep* groups(const OptimizerStep& step) {
        if (own_ && is_capturing()) {
            if (!groups_.holds(step.groups, step.group_count)) {
                throw std::invalid_argument(
                    "hyper-parameters must be those of the step before while a CUDA graph is captured");
            }
            return groups_.data();
        }
        return groups_.update(step.groups, step.group_count);
    }

    // Counters that are zero again after every launch.
    unsigned* tickets() {
        const unsigned zeros[2] = {};
        return tickets_.update(zeros, 2);
    }
    double* sums(std::int64_t n) {
        sums_.reserve(n * std::int64_t(sizeof(double)));
        return static_cast<double*>(sums_.data());
    }

private:
    Mirror<TensorRow> tensors_;
    Mirror<char*> gradients_;
    Mirror<Chunk> chunks_;
    Mirror<Strides> strides_;
    Mirror<GroupStep> groups_;
    Mirror<unsigned> tickets_;
    DeviceMemory sums_;
    const bool own_;
    bool captured_ = false;  // a graph writes these tables at each replay
};

// A launch over all chunks of a table.
struct ChunkKernel : Kernel {
    // At least 48 KB in flight on each of 132 multiprocessors. It is the same for all GPUs, because sums depend on it.
    static constexpr std::int64_t most_chunk_blocks = 1056;

    DeviceTable table;

    template <class F>
    GRADFUSE_DEVICE void for_chunks(const F& f) const {
        for (int c = int(blockIdx.x); c < table.chunk_count; c += int(gridDim.x)) f(c, table.chunks[c]);
    }
    static std::int64_t blocks(const ChunkTable& t) {
        return t.chunk_count < most_chunk_blocks ? t.chunk_count : most_chunk_blocks;
    }
};

// Calls f(i, access) for the chunk's elements: in vectors of V for a wide tensor, one by one for other tensors and for
// the last elements. Chunks begin at multiples of V.
template <class S, int V, class F>
GRADFUSE_DEVICE void for_elements(const DeviceTable& table, const Chunk& chunk, const F& f) {
    const TensorRow& t = table.tensors[chunk.tensor];
    char* const gradient = table.gradients[chunk.tensor];
    const int count = int(chunk.count), whole = t.wide ? count / V * V : 0;
    const Vectors<S, V> vectors(t, gradient);
    for (int at = int(threadIdx.x) * V; at < whole; at += Kernel::threads * V) f(chunk.start + at, vectors);
    const Singles<S> singles(t, gradient);
    for (int at = whole + int(threadIdx.x); at < count; at += Kernel::threads) f(chunk.start + at, singles);
}

// True in all threads of the last block that calls this. The tickets then have their initial value again.
GRADFUSE_DEVICE bool is_last_block(unsigned* ticket, int* shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *shared = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __syncthreads();
    const bool last = *shared != 0;
    if (last && threadIdx.x == 0) *ticket = 0;
    __threadfence();
    return last;
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
