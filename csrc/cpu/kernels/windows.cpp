// Windows of images: copied from the images, or added to them.
#include "core/windows.h"

#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/heap.h"
#include "cpu/kernels.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

namespace {

// Element j of the windows along a row of an image; `fill` where it is in the padding.
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

// Adds element j of the windows along a row of an image to its place in the row.
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
        for_row_blocks(w.channels * kernel, w.plane(), [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t plane = first; plane < last; ++plane) {
                const std::int64_t c = plane / kernel, i = plane % kernel / w.columns.kernel;
                const std::int64_t j = plane % w.columns.kernel;
                auto* to = reinterpret_cast<S*>(static_cast<char*>(windows.data) + w.offset(c, i, j));
                for (std::int64_t r = 0; r < w.rows.windows; ++r, to += run) {
                    const std::int64_t y = w.rows.place(i, r), row = (c * w.rows.size + y) * w.columns.size;
                    if (w.rows.holds(y)) {
                        gather_row(w, j, static_cast<const S*>(images.data) + row * w.batch, outside, to);
                    } else {
                        for (std::int64_t k = 0; k < run; ++k) to[k] = outside;
                    }
                }
            }
        });
    });
}

namespace {

// Adds the elements of all windows that cover a row of an image to this row, in the compute type.
template <class S, class T>
void add_to_row(const WindowShape& w, std::int64_t c, std::int64_t y, const Array& windows, T* row) {
    for (std::int64_t i = 0; i < w.rows.kernel; ++i) {
        const std::int64_t r = w.rows.window_at(i, y);
        for (std::int64_t j = 0; r >= 0 && j < w.columns.kernel; ++j) {
            const char* const plane = static_cast<const char*>(windows.data) + w.offset(c, i, j);
            add_row(w, j, reinterpret_cast<const S*>(plane) + r * w.columns.windows * w.batch, row);
        }
    }
}

}  // namespace

void add_windows(const WindowShape& w, const Array& windows, const Array& images) {
    with_compute_type(images.dtype, [&](auto t) {
        using T = decltype(t);
        const Reader<T> read(images);
        const Writer<T> write(images);
        const std::int64_t width = w.columns.size * w.batch;
        for_row_blocks(w.channels * w.rows.size, width * w.rows.kernel, [&](std::int64_t first, std::int64_t last) {
            const Heap<T> scratch(write.direct() ? 0 : width);
            for (std::int64_t k = first; k < last; ++k) {
                T* const row = write(k * width, scratch.data());
                read(k * width, width, row);
                with_storage(images.dtype, [&](auto storage) {
                    add_to_row<decltype(storage)>(w, k / w.rows.size, k % w.rows.size, windows, row);
                });
                write.commit(k * width, width, row);
            }
        });
    });
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
