// Windows of images, for the convolutions and pools of gradfuse.nn.
#include <utility>

#include "bindings/bindings.h"
#include "core/windows.h"

namespace gradfuse {

namespace {

enum { images_, windows_, first_row_, stride_, padding_, dilation_, fill_ };

constexpr std::int64_t most = 1 << 30;  // whatever is made of such numbers fits 64 bits

std::pair<std::int64_t, std::int64_t> pair_of(const Args& args, int i, std::int64_t least) {
    std::pair<std::int64_t, std::int64_t> p;
    try {
        p = args[i].cast<decltype(p)>();
    } catch (const py::cast_error&) {
        fail<py::type_error>(args.where(i), " must be two integers, got ", describe(args[i]));
    }
    if (p.first < least || p.second < least || p.first > most || p.second > most) {
        fail<py::value_error>(args.where(i), " must be two integers in [", least, ", ", most, "], got (", p.first, ", ",
                              p.second, ")");
    }
    return p;
}

// Of images (C, H, W, N) and their windows (C, kernel height, kernel width, rows, columns, N), one of which is written.
WindowShape window_shape(const Args& args, const View& images, const View& windows) {
    if (images.ndim != 4 || !images.dense) {
        fail<py::value_error>(args.where(images_), " must be contiguous, of shape (C, H, W, N), got ",
                              images.ndim == 4 ? "one that is not" : shape_text(images));
    }
    if (windows.ndim != 6 || windows.shape[0] != images.shape[0] || windows.shape[5] != images.shape[3]) {
        fail<py::value_error>(args.where(windows_), " must have shape (", images.shape[0],
                              ", kernel height, kernel width, rows, columns, ", images.shape[3], "), got ",
                              shape_text(windows));
    }
    require_dtype(windows, args.where(windows_), images.dtype, "images");
    require_device(windows, args.where(windows_), images, "images");
    std::int64_t step = itemsize(windows.dtype);
    bool dense = reinterpret_cast<std::uintptr_t>(windows.data) % std::uintptr_t(step) == 0;
    for (int d = 5; d >= 3; step *= windows.shape[d--]) {
        dense = dense && (windows.shape[d] == 1 || windows.strides[d] == step);
    }
    for (int d = 0; d < 3; ++d) dense = dense && windows.strides[d] % itemsize(windows.dtype) == 0;
    if (!dense && windows.size > 0) {
        fail<py::value_error>(args.where(windows_),
                              " must be contiguous along its last three axes, got one that is not");
    }
    const std::int64_t first_row = args.integer(first_row_);
    if (first_row < 0 || first_row > most) {
        fail<py::value_error>(args.where(first_row_), " must be in [0, ", most, "], got ", first_row);
    }
    const auto stride = pair_of(args, stride_, 1);
    const auto padding = pair_of(args, padding_, 0), dilation = pair_of(args, dilation_, 1);
    const std::int64_t *x = images.shape, *w = windows.shape;
    return {x[0],
            x[3],
            {x[1], w[1], w[3], first_row, stride.first, padding.first, dilation.first},
            {x[2], w[2], w[4], 0, stride.second, padding.second, dilation.second},
            {windows.strides[0], windows.strides[1], windows.strides[2]}};
}

py::object gather_windows(const Args& args) {
    const View images = view(args, images_), windows = writeable_view(args[windows_], args.where(windows_));
    const WindowShape shape = window_shape(args, images, windows);
    require_no_overlap(windows, args.where(windows_), images, "images");
    const double fill = args.number(fill_);
    if (windows.size == 0) return py::none();
    compute(windows, [&](const Backend& backend) { backend.gather_windows(shape, images, fill, windows); });
    return py::none();
}

py::object add_windows(const Args& args) {
    const View images = writeable_view(args[images_], args.where(images_)), windows = view(args, windows_);
    const WindowShape shape = window_shape(args, images, windows);
    require_no_overlap(images, args.where(images_), windows, "windows");
    if (images.size == 0 || windows.size == 0) return py::none();
    compute(windows, [&](const Backend& backend) { backend.add_windows(shape, windows, images); });
    return py::none();
}

}  // namespace

void register_windows(py::module_& m) {
    define(m, "gather_windows(images, windows, first_row, stride, padding, dilation, fill=0.0)",
           "windows[c, i, j, r, q, n] = images[c, y, x, n], `fill` where that is outside of the images.\n\n"
           "y = (first_row + r) * stride[0] + i * dilation[0] - padding[0], x = q * stride[1] + j * dilation[1] - "
           "padding[1].",
           gather_windows);
    define(m, "add_windows(images, windows, first_row, stride, padding, dilation)",
           "images[c, y, x, n] += windows[c, i, j, r, q, n], with y and x as in gather_windows.", add_windows);
}

}  // namespace gradfuse
