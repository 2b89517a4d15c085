// One launch over the elements of many tensors. The elements are divided into chunks; a block finds the tensor of its
// chunk by search, so there is no table of chunks. A few tensors are arguments of the kernel. More of them lie in a
// table in device memory.
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

// One tensor of a launch. Its chunks have the numbers from first_chunk on.
struct TensorRow {
    char* parameter;
    void* state[OptimizerInfo::max_slots];
    float* master;
    const Strides *parameter_strides, *gradient_strides;  // null if dense
    std::int64_t size;                                    // 0 if the tensor has no chunks
    int first_chunk, group;
    DType dtype;
    bool wide,
        aligned;  // parameter and gradient: wide if dense and on a boundary of 16 bytes; aligned if each element is

    GRADFUSE_HD int chunk_count() const { return int((size + ChunkTable::chunk_size - 1) / ChunkTable::chunk_size); }
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
    static constexpr int most_given = 24;

    int tensor_count, chunk_count;
    const TensorRow* rows = nullptr;  // in device memory; null if the tensors are arguments
    char* const* gradients = nullptr;
    const int* first_chunks = nullptr;
    TensorRow given[most_given];
    char* given_gradients[most_given];

    GRADFUSE_DEVICE TensorRow row(int tensor) const { return rows ? rows[tensor] : given[tensor]; }
    GRADFUSE_DEVICE char* gradient(int tensor) const { return rows ? gradients[tensor] : given_gradients[tensor]; }

    // The last tensor whose first chunk is not after this one. All threads of a warp must call it.
    GRADFUSE_DEVICE int tensor_of(int chunk) const {
        int begin = 0;
        if (!rows) {
            for (int t = 1; t < tensor_count; ++t) begin += given[t].first_chunk <= chunk;
            return begin;
        }
        const int lane = int(threadIdx.x) % warp_size;
        for (int end = tensor_count; end - begin > 1;) {  // each step divides the range by 32
            const int step = (end - begin + warp_size - 1) / warp_size, at = begin + lane * step;
            const unsigned not_after = __ballot_sync(full_warp, lane == 0 || (at < end && first_chunks[at] <= chunk));
            begin += (__popc(not_after) - 1) * step;
            end = begin + step < end ? begin + step : end;
        }
        return begin;
    }
};

// A chunk: `count` elements of a tensor from element `start` on. It lies in shared memory: registers are scarcer.
struct Piece {
    TensorRow row;
    char* gradient;
    std::int64_t start;
    int chunk, tensor, count;
};

// A tensor's gradient and parameter, in vectors of V for wide tensors, otherwise in single elements.
template <class S, int V>
struct Vectors {
    static constexpr int count = V;
    View<S> gradient, parameter;

    GRADFUSE_DEVICE Vectors(const TensorRow& t, char* g) : gradient(g, true), parameter(t.parameter, true) {}
    GRADFUSE_DEVICE void read_gradient(std::int64_t i, Compute<S> (&to)[V]) const { gradient.read(i, V, true, to); }
    GRADFUSE_DEVICE void read_parameter(std::int64_t i, Compute<S> (&to)[V]) const { parameter.read(i, V, true, to); }
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
// graph may still read memory from before it was renewed.
class DeviceMemory {
public:
    explicit DeviceMemory(bool own) : own_(own) {}
    ~DeviceMemory() {
        for (void* data : all_) cudaFree(data);
    }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* data() const { return data_; }
    bool has(std::int64_t bytes) const { return bytes <= bytes_; }
    void renew(std::int64_t bytes) {
        if (own_) {
            data_ = allocate_outside_capture(bytes);
            all_.push_back(data_);
        } else {
            data_ = allocate(bytes);
        }
        bytes_ = bytes;
    }

    template <class T>
    T* array(std::int64_t n) {  // its contents may be lost
        const std::int64_t bytes = n * std::int64_t(sizeof(T));
        if (!has(bytes)) renew(bytes);
        return static_cast<T*>(data_);
    }

private:
    const bool own_;
    void* data_ = nullptr;
    std::int64_t bytes_ = 0;
    std::vector<void*> all_;
};

// An array in device memory, and a copy of its contents. What a captured graph reads is written once, outside of the
// graph, and not again: later contents get new memory.
template <class T>
class Mirror {
public:
    explicit Mirror(bool own) : memory_(own), own_(own) {}

    // Writes the range from the first to the last changed element.
    T* update(const T* values, std::int64_t n) {
        const bool captures = own_ && is_capturing();
        std::int64_t first = 0, last = n;
        if (holds(n)) {
            while (first < n && same(written_[std::size_t(first)], values[first])) ++first;
            while (last > first && same(written_[std::size_t(last - 1)], values[last - 1])) --last;
        }
        if (last > first) {
            written_.clear();  // if the write fails, the next call writes everything
            if (captured_ || captures || !memory_.has(n * size)) {
                memory_.renew(n * size);
                captured_ = false, first = 0, last = n;
            }
            (captures ? write_outside_capture : write)(data() + first, values + first, (last - first) * size);
            written_.assign(values, values + n);
        }
        captured_ = captured_ || captures;
        return data();
    }
    bool holds(std::int64_t n) const { return n > 0 && std::int64_t(written_.size()) == n; }
    bool holds(const T* values, std::int64_t n) const {
        return holds(n) && std::equal(values, values + n, written_.begin(), same);
    }
    T* data() const { return static_cast<T*>(memory_.data()); }

private:
    static constexpr std::int64_t size = sizeof(T);
    static bool same(const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }

    DeviceMemory memory_;
    std::vector<T> written_;
    const bool own_;
    bool captured_ = false;  // a graph reads the memory
};

class Tables : public Resident {
public:
    // std::invalid_argument while a graph is captured: the first step must come before, because it allocates.
    explicit Tables(bool own)
        : rows_(own),
          gradients_(own),
          first_chunks_(own),
          strides_(own),
          groups_(own),
          sums_(own),
          constants_(own),
          own_(own) {
        if (own && is_capturing()) {
            throw std::invalid_argument(
                "a step must have been taken before a CUDA graph is captured, with gradients for the "
                "same parameters");
        }
    }

    DeviceTable update(const ChunkTable& table) {
        if (version_ == table.version && !(own_ && is_capturing())) return latest_;
        version_ = -1;  // if a write fails, the next call writes again
        latest_ = written(table);
        version_ = table.version;
        return latest_;
    }

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

    double* sums(std::int64_t n) { return sums_.array<double>(n); }
    template <class T>
    T* constants(std::int64_t n) {
        return constants_.array<T>(n);
    }

private:
    DeviceTable written(const ChunkTable& table);

    std::int64_t version_ = -1;  // of the latest table
    DeviceTable latest_;
    Mirror<TensorRow> rows_;
    Mirror<char*> gradients_;
    Mirror<int> first_chunks_;
    Mirror<Strides> strides_;
    Mirror<GroupStep> groups_;
    DeviceMemory sums_, constants_;
    const bool own_;
};

// A launch over all chunks of a table. The block's shared memory begins with a piece; `own_shared` is the rest of it.
struct ChunkKernel : Kernel {
    static constexpr int blocks_per_multiprocessor = 4;  // at most 64 registers, so that enough loads are in flight
    static constexpr std::int64_t piece_bytes = (sizeof(Piece) + 15) / 16 * 16;

    DeviceTable table;

    template <class T>
    GRADFUSE_DEVICE static T* own_shared() {
        return reinterpret_cast<T*>(shared_memory<char>() + piece_bytes);
    }

    template <class F>
    GRADFUSE_DEVICE void for_chunks(const F& f) const {
        Piece& piece = *shared_memory<Piece>();
        for (int c = int(blockIdx.x); c < table.chunk_count; c += int(gridDim.x)) {
            __syncthreads();  // the piece before is finished
            if (threadIdx.x < warp_size) {
                const int t = table.tensor_of(c);
                if (threadIdx.x == 0) piece = piece_of(c, t);
            }
            __syncthreads();
            f(piece);
        }
    }

private:
    GRADFUSE_DEVICE Piece piece_of(int chunk, int tensor) const {
        Piece piece{table.row(tensor), table.gradient(tensor), 0, chunk, tensor, 0};
        piece.start = (chunk - piece.row.first_chunk) * ChunkTable::chunk_size;
        const std::int64_t left = piece.row.size - piece.start;
        piece.count = int(left < ChunkTable::chunk_size ? left : ChunkTable::chunk_size);
        return piece;
    }
};

// Calls f(i, access) for the elements of a chunk: in vectors of V for a wide tensor, one by one for other tensors and
// for the last elements. Chunks begin at multiples of V.
template <class S, int V, class F>
GRADFUSE_DEVICE void for_elements(const Piece& piece, const F& f) {
    const int whole = piece.row.wide ? piece.count / V * V : 0;
    const Vectors<S, V> vectors(piece.row, piece.gradient);
    for (int at = int(threadIdx.x) * V; at < whole; at += Kernel::threads * V) f(piece.start + at, vectors);
    const Singles<S> singles(piece.row, piece.gradient);
    for (int at = whole + int(threadIdx.x); at < piece.count; at += Kernel::threads) f(piece.start + at, singles);
}

// Calls f(v) for Loads vectors v from element i on, a step apart, and writes them back if Writes is true. All loads are
// issued before the first one is used.
template <int Loads, bool Writes, int V, class S, class F>
GRADFUSE_DEVICE void for_vectors(const View<S>& view, std::int64_t i, int step, const F& f) {
    Raw<S, V> raw[Loads];
#pragma unroll
    for (int k = 0; k < Loads; ++k) view.load(i + k * step, V, true, raw[k]);
#pragma unroll
    for (int k = 0; k < Loads; ++k) {
        Compute<S> v[V];
        widen(raw[k], v);
        f(v);
        if constexpr (Writes) view.write(i + k * step, V, true, v);
    }
}

// The same for all elements of a gradient.
template <class S, bool Writes, class F>
GRADFUSE_DEVICE void for_gradients(const Piece& piece, const F& f) {
    constexpr int V = per_access<S>, loads = 4, step = Kernel::threads * V;
    const int whole = piece.row.wide ? piece.count / V * V : 0;
    const View<S> gradient(piece.gradient, true);
    int at = int(threadIdx.x) * V;
    for (; at + (loads - 1) * step < whole; at += loads * step) {
        for_vectors<loads, Writes, V>(gradient, piece.start + at, step, f);
    }
    for (; at < whole; at += step) for_vectors<1, Writes, V>(gradient, piece.start + at, step, f);
    const Singles<S> singles(piece.row, piece.gradient);
    for (at = whole + int(threadIdx.x); at < piece.count; at += Kernel::threads) {
        Compute<S> v[1];
        singles.read_gradient(piece.start + at, v);
        f(v);
        if constexpr (Writes) singles.write_gradient(piece.start + at, v);
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
