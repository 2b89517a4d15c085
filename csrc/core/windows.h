// Windows of images, for convolution and pooling: maps each element of a window to an element of the image.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace gradfuse {

// One of the two axes of an image. Element k of window i is at place(k, i), which may be in the padding.
struct WindowAxis {
    std::int64_t size, kernel, windows;  // length of the image, length of a window, number of windows
    std::int64_t first;                  // index of the first window
    std::int64_t stride, padding, dilation;

    GRADFUSE_HD std::int64_t place(std::int64_t k, std::int64_t i) const {
        return (first + i) * stride + k * dilation - padding;
    }
    GRADFUSE_HD bool holds(std::int64_t place) const { return place >= 0 && place < size; }

    // The window whose element k is at this place; -1 if there is none.
    GRADFUSE_HD std::int64_t window_at(std::int64_t k, std::int64_t place) const {
        const std::int64_t from_first = place - this->place(k, 0), i = from_first / stride;
        return from_first >= 0 && i * stride == from_first && i < windows ? i : -1;
    }

    // Element k is inside the image for windows [begin, end).
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
// planes [rows.windows][columns.windows][batch]; `strides` are the distances between planes in bytes.
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
