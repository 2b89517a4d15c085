// Windows of images: copied from the images, or added to them. A thread computes one element of the result.
#include "core/backend.h"
#include "core/windows.h"
#include "cuda/kernels.h"
#include "cuda/strides.cuh"
#include "cuda/view.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

namespace {

template <class S>
struct Gather : Kernel {
    WindowShape shape;
    const S* images;
    char* windows;
    S fill;
    std::int64_t size;
    Divider batch, window_columns, window_rows, kernel_width, kernel_height;

    GRADFUSE_DEVICE void operator()() const {
        for (std::int64_t at = std::int64_t(blockIdx.x) * threads + threadIdx.x; at < size;
             at += std::int64_t(gridDim.x) * threads) {
            std::int64_t c = at;
            const std::int64_t n = batch.split(c), q = window_columns.split(c), r = window_rows.split(c);
            const std::int64_t j = kernel_width.split(c), i = kernel_height.split(c);
            const WindowAxis &v = shape.rows, &h = shape.columns;
            const std::int64_t y = v.place(i, r), x = h.place(j, q);
            const bool inside = v.holds(y) && h.holds(x);
            S* const to = reinterpret_cast<S*>(windows + shape.offset(c, i, j));
            to[(r * h.windows + q) * shape.batch + n] =
                inside ? images[((c * v.size + y) * h.size + x) * shape.batch + n] : fill;
        }
    }
};

template <class S>
struct Add : Kernel {
    WindowShape shape;
    const char* windows;
    S* images;
    std::int64_t size;
    Divider batch, image_width, image_height;

    GRADFUSE_DEVICE void operator()() const {
        using T = Compute<S>;
        for (std::int64_t at = std::int64_t(blockIdx.x) * threads + threadIdx.x; at < size;
             at += std::int64_t(gridDim.x) * threads) {
            std::int64_t c = at;
            const std::int64_t n = batch.split(c), x = image_width.split(c), y = image_height.split(c);
            const WindowAxis &v = shape.rows, &h = shape.columns;
            T sum = Storage<S>::template load<T>(images[at]);
            for (std::int64_t i = 0; i < v.kernel; ++i) {
                const std::int64_t r = v.window_at(i, y);
                for (std::int64_t j = 0; r >= 0 && j < h.kernel; ++j) {
                    const std::int64_t q = h.window_at(j, x);
                    if (q < 0) continue;
                    const S* const plane = reinterpret_cast<const S*>(windows + shape.offset(c, i, j));
                    sum += Storage<S>::template load<T>(plane[(r * h.windows + q) * shape.batch + n]);
                }
            }
            images[at] = Storage<S>::store(sum);
        }
    }
};

}  // namespace

}  // namespace GRADFUSE_ISA

void gather_windows(const WindowShape& w, const Array& images, double fill, const Array& windows) {
    with_storage(images.dtype, [&](auto storage) {
        using S = decltype(storage);
        const std::int64_t size = windows.size;
        const auto over = [&](std::int64_t n) { return Divider(n, size); };
        const Gather<S> kernel{{},
                               w,
                               static_cast<const S*>(images.data),
                               static_cast<char*>(windows.data),
                               Storage<S>::store(fill),
                               size,
                               over(w.batch),
                               over(w.columns.windows),
                               over(w.rows.windows),
                               over(w.columns.kernel),
                               over(w.rows.kernel)};
        launch(kernel, blocks_for(size, kernel.threads));
    });
}

void add_windows(const WindowShape& w, const Array& windows, const Array& images) {
    with_storage(images.dtype, [&](auto storage) {
        using S = decltype(storage);
        const std::int64_t size = images.size;
        const auto over = [&](std::int64_t n) { return Divider(n, size); };
        const Add<S> kernel{{},
                            w,
                            static_cast<const char*>(windows.data),
                            static_cast<S*>(images.data),
                            size,
                            over(w.batch),
                            over(w.columns.size),
                            over(w.rows.size)};
        launch(kernel, blocks_for(size, kernel.threads));
    });
}

}  // namespace gradfuse::cuda
