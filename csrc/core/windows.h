// Windows of images, for convolution and pooling: which element of an image each element of a window is.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace gradfuse {

// One of the two axes of an image. Element k of window i is at place(k, i), which may be in the margin.
struct WindowAxis {
    std::int64_t size, kernel, windows;  // of the image, of a window, how many windows
    std::int64_t first;                  // number of the first window
    std::int64_t stride, padding, dilation;

    GRADFUSE_HD std::int64_t place(std::int64_t k, std::int64_t i) const {
        return (first + i) * stride + k * dilation - padding;
    }
    GRADFUSE_HD bool holds(std::int64_t place) const { return place >= 0 && place < size; }

    // The window whose element k is at this place; -1 where there is none.
    GRADFUSE_HD std::int64_t window_at(std::int64_t k, std::int64_t place) const {
        const std::int64_t from_first = place - this->place(k, 0), i = from_first / stride;
        return from_first >= 0 && i * stride == from_first && i < windows ? i : -1;
    }

    // Windows [begin, end) have their element k in the image.
    GRADFUSE_HD std::int64_t begin(std::int64_t k) const {
        const std::int64_t p = place(k, 0), i = p >= 0 ? 0 : (stride - 1 - p) / stride;
        return i < windows ? i : windows;
    }
    GRADFUSE_HD std::int64_t end(std::int64_t k) const {
        const std::int64_t left = size - 1 - place(k, 0), i = left < 0 ? 0 : left / stride + 1;
        const std::int64_t last = i < windows ? i : windows;
        return last > begin(k) ? last : begin(k);
    }
};

// Images [channels][rows.size][columns.size][batch], dense; windows [channels][rows.kernel][columns.kernel] of dense
// planes [rows.windows][columns.windows][batch], as far apart as `strides` says, in bytes.
struct WindowShape {
    std::int64_t channels, batch;
    WindowAxis rows, columns;
    std::int64_t strides[3];

    GRADFUSE_HD std::int64_t plane() const { return rows.windows * columns.windows * batch; }
    GRADFUSE_HD std::int64_t offset(std::int64_t c, std::int64_t i, std::int64_t j) const {
        return c * strides[0] + i * strides[1] + j * strides[2];
    }
};

}  // namespace gradfuse
