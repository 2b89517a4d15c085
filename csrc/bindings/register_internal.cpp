// Further device functions for gradfuse's Python layer: windows of images, for convolutions and pooling, and copies.
#include <utility>

#include "bindings/bindings.h"
#include "core/windows.h"

namespace gradfuse {

namespace arg {
constexpr std::int64_t most = 1 << 30;  // then products of these numbers fit in 64 bits
constexpr Word<Written> to{"to"};
constexpr Word<AnArray> images{"images"}, windows{"windows"};
constexpr Word<Integer> first_row{"first_row", {0, most}};
constexpr Word<Pair> stride{"stride", {1, most}}, padding{"padding", {0, most}}, dilation{"dilation", {1, most}};
constexpr Word<Anything> fill{"fill", {"float"}};
}  // namespace arg

namespace {

// For images (C, H, W, N) and their windows (C, kernel height, kernel width, rows, columns, N). One of them is written.
WindowShape window_shape(const Args& args, const View& images, const View& windows) {
    if (images.ndim != 4 || !images.dense) {
        fail<py::value_error>(args.where(arg::images), " must be contiguous, of shape (C, H, W, N), got ",
                              images.ndim == 4 ? "one that is not" : shape_text(images));
    }
    if (windows.ndim != 6 || windows.shape[0] != images.shape[0] || windows.shape[5] != images.shape[3]) {
        fail<py::value_error>(args.where(arg::windows), " must have shape (", images.shape[0],
                              ", kernel height, kernel width, rows, columns, ", images.shape[3], "), got ",
                              shape_text(windows));
    }
    require_dtype(windows, args.where(arg::windows), images.dtype, "images");
    require_device(windows, args.where(arg::windows), images, "images");
    std::int64_t step = itemsize(windows.dtype);
    bool dense = reinterpret_cast<std::uintptr_t>(windows.data) % std::uintptr_t(step) == 0;
    for (int d = 5; d >= 3; step *= windows.shape[d--]) {
        dense = dense && (windows.shape[d] == 1 || windows.strides[d] == step);
    }
    for (int d = 0; d < 3; ++d) dense = dense && windows.strides[d] % itemsize(windows.dtype) == 0;
    if (!dense && windows.size > 0) {
        fail<py::value_error>(args.where(arg::windows),
                              " must be contiguous along its last three axes, got one that is not");
    }
    const std::int64_t first_row = args(arg::first_row);
    const auto stride = args(arg::stride), padding = args(arg::padding), dilation = args(arg::dilation);
    const std::int64_t *x = images.shape, *w = windows.shape;
    return {x[0],
            x[3],
            {x[1], w[1], w[3], first_row, stride.first, padding.first, dilation.first},
            {x[2], w[2], w[4], 0, stride.second, padding.second, dilation.second},
            {windows.strides[0], windows.strides[1], windows.strides[2]}};
}

py::object gather_windows(const Args& args) {
    const View images = args(arg::images), windows = args(arg::windows);
    require_writeable(windows, args.where(arg::windows));
    const WindowShape shape = window_shape(args, images, windows);
    require_no_overlap(windows, args.where(arg::windows), images, "images");
    const double fill = number_of(args(arg::fill), args.where(arg::fill));  // infinity and NaN are allowed
    if (windows.size == 0) return py::none();
    compute(windows, [&](const Backend& backend) { backend.gather_windows(shape, images, fill, windows); });
    return py::none();
}

py::object add_windows(const Args& args) {
    const View images = args(arg::images), windows = args(arg::windows);
    require_writeable(images, args.where(arg::images));
    const WindowShape shape = window_shape(args, images, windows);
    require_no_overlap(images, args.where(arg::images), windows, "windows");
    if (images.size == 0 || windows.size == 0) return py::none();
    compute(windows, [&](const Backend& backend) { backend.add_windows(shape, windows, images); });
    return py::none();
}

py::object copy_elements(const Args& args) {
    const View x = args(arg::x), to = args(arg::to);
    if (!x.on_device()) fail<py::value_error>(args.where(arg::x), " must be on a CUDA device, got an array on the CPU");
    require_alike(to, args.where(arg::to), x, "x");
    require_no_overlap(to, args.where(arg::to), x, "x");
    compute(x, [&](const Backend&) { devices::copy_elements(x, to); });
    return py::none();
}

}  // namespace

void register_internal(py::module_& m) {
    const Signature parameters = {arg::images, arg::windows, arg::first_row, arg::stride, arg::padding, arg::dilation};
    define_internal(m, "gather_windows", {parameters, arg::fill = 0.0}, "None",
                    {"windows[c, i, j, r, q, n] = images[c, y, x, n], or `fill` outside the image.",
                     "y = (first_row + r) * stride[0] + i * dilation[0] - padding[0], x = q * stride[1] + j * "
                     "dilation[1] - padding[1]."},
                    gather_windows);
    define_internal(m, "add_windows", parameters, "None",
                    {"images[c, y, x, n] += windows[c, i, j, r, q, n], with y and x as in gather_windows."},
                    add_windows);
    define_internal(m, "copy_elements", {arg::x, arg::to}, "None",
                    {"Copies x to another array of its shape and dtype on its CUDA device; both may have any layout."},
                    copy_elements);
}

}  // namespace gradfuse
