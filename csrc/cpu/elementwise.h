// One loop for all elementwise operations: any number of input arrays, one or more output arrays.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "cpu/parallel.h"
#include "cpu/tile.h"
#include "formulas/activations/list.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Work is divided into blocks of this many elements (a multiple of the tile and of Philox's block). Waking another
// thread costs 15 to 40 us, so it is not worth it for fewer than two blocks.
constexpr std::int64_t block_size = 8 * tile_size;

// Calls f(start, count) for blocks of [0, n), in parallel.
template <class F>
inline void for_blocks(std::int64_t n, const F& f) {
    if (n <= 2 * block_size) {
        if (n > 0) f(std::int64_t(0), n);
        return;
    }
    parallel((n + block_size - 1) / block_size, [&](std::int64_t k) {
        const std::int64_t start = k * block_size, left = n - start;
        f(start, left < block_size ? left : block_size);
    });
}

// Calls f(first, last) in parallel for ranges of rows of about one block of elements each.
template <class F>
inline void for_row_blocks(std::int64_t rows, std::int64_t row_size, const F& f) {
    if (rows * row_size <= 2 * block_size) {
        if (rows > 0) f(std::int64_t(0), rows);
        return;
    }
    const std::int64_t per_task = row_size < block_size ? block_size / row_size : 1;
    parallel((rows + per_task - 1) / per_task, [&](std::int64_t k) {
        const std::int64_t end = (k + 1) * per_task;
        f(k * per_task, end < rows ? end : rows);
    });
}

// Calls f(start, count) for the tiles of [start, start + n), or once for the whole range if no tile needs conversion.
template <class F>
inline void for_tiles(std::int64_t start, std::int64_t n, bool direct, const F& f) {
    const std::int64_t step = direct ? n : tile_size;
    for (std::int64_t done = 0; done < n; done += step) {
        const std::int64_t left = n - done;
        f(start + done, left < step ? left : step);
    }
}

// The compiled loops of one activation. Input and output may be the same array.
template <class T>
struct ActivationLoops {
    void (*forward)(const double* parameters, const T* x, T* y, std::int64_t n);
    void (*backward)(const double* parameters, const T* dy, const T* saved, T* dx, std::int64_t n);
    Saves saves;
};

template <template <class> class Formula, class T>
void forward_loop(const double* parameters, const T* x, T* y, std::int64_t n) {
    const Formula<T> f(parameters);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) y[i] = f.forward(x[i]);
}

template <template <class> class Formula, class T>
void backward_loop(const double* parameters, const T* dy, const T* saved, T* dx, std::int64_t n) {
    const Formula<T> f(parameters);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) dx[i] = f.backward(dy[i], saved[i]);
}

template <class T>
const ActivationLoops<T>& activation_loops(int row);

// y = dropout(x) for elements [start, start + n) of the array. y may be x.
template <class T>
void dropout_tile(const Dropout& d, std::int64_t start, const T* x, T* y, std::int64_t n);

// out = f(a), tile by tile. f(start, a, out, n) may work in place.
template <class T, class F>
void map(const Array& a, const Array& out, const F& f) {
    const Reader<T> read(a);
    const Writer<T> write(out);
    for_blocks(out.size, [&](std::int64_t begin, std::int64_t n) {
        Buffer<T> scratch;
        for_tiles(begin, n, read.direct() && write.direct(), [&](std::int64_t start, std::int64_t count) {
            const T* const x = read(start, count, scratch.data);
            T* const y = write(start, scratch.data);
            f(start, x, y, count);
            write.commit(start, count, y);
        });
    });
}

template <class T, class F>
void map(const Array& a, const Array& b, const Array& out, const F& f) {
    const Reader<T> read_a(a), read_b(b);
    const Writer<T> write(out);
    const bool direct = read_a.direct() && read_b.direct() && write.direct();
    for_blocks(out.size, [&](std::int64_t begin, std::int64_t n) {
        Buffer<T> scratch_a, scratch_b;
        for_tiles(begin, n, direct, [&](std::int64_t start, std::int64_t count) {
            const T* const x = read_a(start, count, scratch_a.data);
            const T* const y = read_b(start, count, scratch_b.data);
            T* const z = write(start, scratch_a.data);
            f(start, x, y, z, count);
            write.commit(start, count, z);
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
