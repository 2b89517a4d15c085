// Loops over rows that are reduced and written again: `width` neighbouring threads take a row.
#pragma once

#include "core/backend.h"
#include "core/math.h"
#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// A row as its threads see it. Its elements may lie apart: then one thread takes all of it, for its neighbours take the
// neighbouring rows.
template <class T>
struct Row {
    static constexpr int V = 8;

    std::int64_t start, step, n;  // n = 0 where there is no row left: such threads only take part in the reductions
    int lane, width;
    bool wide;
    T* stage;  // room for `arrays` times n values, or null

    // Calls f(k, i, count) for this thread's vectors: elements k, k + 1 ... of the row, i the first one's index.
    template <class F>
    GRADFUSE_DEVICE void for_vectors(const F& f) const {
        const int count = step == 1 ? V : 1;
        for (std::int64_t k = std::int64_t(lane) * count; k < n; k += std::int64_t(width) * count) {
            f(k, start + k * step, n - k < count ? int(n - k) : count);
        }
    }

    template <class S>
    GRADFUSE_DEVICE void read(const View<S>& from, std::int64_t i, int count, T (&to)[V]) const {
        from.read(i, count, wide, to);
    }
    // The same of the `array`-th array, which `keep` has put by: from the chip where there was room.
    template <class S>
    GRADFUSE_DEVICE void read_again(const View<S>& from, int array, std::int64_t k, std::int64_t i, int count,
                                    T (&to)[V]) const {
        if (!stage) return read(from, i, count, to);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            to[j] = j < count ? stage[array * n + k + j] : T(0);
        }
    }
    GRADFUSE_DEVICE void keep(int array, std::int64_t k, int count, const T (&values)[V]) const {
        if (!stage) return;
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j < count) stage[array * n + k + j] = values[j];
        }
    }
    template <class S>
    GRADFUSE_DEVICE void write(const View<S>& to, std::int64_t i, int count, const T (&from)[V]) const {
        to.write(i, count, wide, from);
    }

    GRADFUSE_DEVICE double sum(double value) const { return block_reduce(value, scratch(), Add{}, width); }
    GRADFUSE_DEVICE T largest(T value) const {
        const auto larger = [](double& a, double b) { a = math::max_or_nan(a, b); };
        return T(block_reduce(double(value), scratch(), larger, width));
    }

private:
    GRADFUSE_DEVICE double* scratch() const { return shared_memory<double>(); }
};

// f(row, index) for every row along an axis. f.arrays is how many values it keeps of each element.
template <class F, class T, int Threads>
struct Rows : Kernel {
    static constexpr int threads = Threads;
    static constexpr std::int64_t scratch_bytes = threads / warp_size * std::int64_t(sizeof(double));

    F f;
    std::int64_t rows, n, inner;
    int width;
    bool staged;

    GRADFUSE_DEVICE void operator()() const {
        const int per_block = threads / width, own = int(threadIdx.x) / width;
        for (std::int64_t first = std::int64_t(blockIdx.x) * per_block; first < rows;
             first += std::int64_t(gridDim.x) * per_block) {
            const std::int64_t index = first + own;
            const bool exists = index < rows;
            Row<T> row;
            row.start = exists ? index / inner * n * inner + index % inner : 0;
            row.step = inner;
            row.n = exists ? n : 0;
            row.lane = int(threadIdx.x) % width;
            row.width = width;
            row.wide = inner == 1 && n % Row<T>::V == 0;
            T* const stage = reinterpret_cast<T*>(shared_memory<char>() + scratch_bytes);
            row.stage = staged ? stage + own * F::arrays * n : nullptr;
            f(row, index);
        }
    }
};

template <int Threads, class T, class F>
void launch_rows(const F& f, std::int64_t rows, std::int64_t n, std::int64_t inner) {
    Rows<F, T, Threads> kernel{{}, f, rows, n, inner, 1, false};
    while (inner == 1 && kernel.width < Threads && kernel.width * Row<T>::V < n) kernel.width *= 2;
    const std::int64_t per_block = Threads / kernel.width;
    const std::int64_t stage = per_block * n * F::arrays * std::int64_t(sizeof(T));
    kernel.staged = stage + kernel.scratch_bytes <= most_shared_bytes();
    launch(kernel, blocks_for(rows, per_block), kernel.scratch_bytes + (kernel.staged ? stage : 0));
}

template <class T, class F>
void for_rows(const F& f, std::int64_t rows, std::int64_t n, std::int64_t inner) {
    if (n == 0) return;
    if (n <= 4096) {
        launch_rows<256, T>(f, rows, n, inner);
    } else {
        launch_rows<sizeof(T) == 8 ? 512 : 1024, T>(f, rows, n, inner);  // doubles take twice the registers
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
