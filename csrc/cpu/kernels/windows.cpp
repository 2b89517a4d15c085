// Windows of images: copied out of them, and added back.
#include "core/windows.h"

#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"

namespace smelt {
inline namespace SMELT_ISA {

namespace {

// Calls f(k) for k in [0, n), of `elements` each, in parallel where there are enough of them.
template <class F>
void for_pieces(std::int64_t n, std::int64_t elements, const F& f) {
    const std::int64_t each = elements < block_size ? block_size / (elements + 1) + 1 : 1;
    const auto pieces = [&](std::int64_t task) {
        for (std::int64_t k = task * each; k < n && k < (task + 1) * each; ++k) f(k);
    };
    if (n * elements <= 2 * block_size) {
        for (std::int64_t k = 0; k < n; ++k) f(k);
    } else {
        parallel((n + each - 1) / each, pieces);
    }
}

// Element j of the windows along a row of an image; fill where that is in the margin.
template <class S>
void gather_row(const WindowShape& w, std::int64_t j, const S* row, S fill, S* to) {
    const WindowAxis& axis = w.columns;
    const std::int64_t begin = axis.begin(j), end = axis.end(j), n = w.batch;
    for (std::int64_t k = 0; k < begin * n; ++k) to[k] = fill;
    if (begin < end) {
        const S* const from = row + axis.place(j, begin) * n;
        const std::int64_t runs = axis.stride == 1 ? 1 : end - begin, run = (end - begin) / runs * n;
        for (std::int64_t k = 0; k < runs; ++k) {
            std::memcpy(to + begin * n + k * run, from + k * axis.stride * n, sizeof(S) * std::size_t(run));
        }
    }
    for (std::int64_t k = end * n; k < axis.windows * n; ++k) to[k] = fill;
}

template <class S, class T>
void add_run(const S* from, std::int64_t n, T* to) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) to[i] += Storage<S>::template load<T>(from[i]);
}

// Adds element j of the windows along a row of an image to their places.
template <class S, class T>
void add_row(const WindowShape& w, std::int64_t j, const S* from, T* row) {
    const WindowAxis& axis = w.columns;
    const std::int64_t begin = axis.begin(j), end = axis.end(j), n = w.batch;
    if (begin == end) return;
    T* const to = row + axis.place(j, begin) * n;
    if (axis.stride == 1) return add_run(from + begin * n, (end - begin) * n, to);
    for (std::int64_t i = begin; i < end; ++i) add_run(from + i * n, n, to + (i - begin) * axis.stride * n);
}

}  // namespace

void gather_windows(const WindowShape& w, const Array& images, double fill, const Array& windows) {
    with_storage(images.dtype, [&](auto storage) {
        using S = decltype(storage);
        const S outside = Storage<S>::store(fill);
        const std::int64_t kernel = w.rows.kernel * w.columns.kernel, run = w.columns.windows * w.batch;
        for_pieces(w.channels * kernel, w.plane(), [&](std::int64_t k) {
            const std::int64_t c = k / kernel, i = k % kernel / w.columns.kernel, j = k % w.columns.kernel;
            auto* to = reinterpret_cast<S*>(static_cast<char*>(windows.data) + w.offset(c, i, j));
            for (std::int64_t r = 0; r < w.rows.windows; ++r, to += run) {
                const std::int64_t place = w.rows.place(i, r), row = c * w.rows.size + place;
                if (w.rows.holds(place)) {
                    gather_row(w, j, static_cast<const S*>(images.data) + row * w.columns.size * w.batch, outside, to);
                } else {
                    for (std::int64_t m = 0; m < run; ++m) to[m] = outside;
                }
            }
        });
    });
}

void add_windows(const WindowShape& w, const Array& windows, const Array& images) {
    with_compute_type(images.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read(images);
        const Writer<T> write(images);
        const std::int64_t width = w.columns.size * w.batch, run = w.columns.windows * w.batch;
        for_pieces(w.channels * w.rows.size, width * w.rows.kernel, [&](std::int64_t k) {
            const std::int64_t c = k / w.rows.size, place = k % w.rows.size;
            const Heap<T> scratch(write.direct() ? 0 : width);
            T* const row = write(k * width, scratch.data());
            read(k * width, width, row);
            for (std::int64_t i = 0; i < w.rows.kernel; ++i) {
                const std::int64_t r = w.rows.window_at(i, place);
                for (std::int64_t j = 0; r >= 0 && j < w.columns.kernel; ++j) {
                    with_storage(images.dtype, [&](auto storage) {
                        using S = decltype(storage);
                        const char* const plane = static_cast<const char*>(windows.data) + w.offset(c, i, j);
                        add_row(w, j, reinterpret_cast<const S*>(plane) + r * run, row);
                    });
                }
            }
            write.commit(k * width, width, row);
        });
    });
}

}  // namespace SMELT_ISA
}  // namespace smelt
