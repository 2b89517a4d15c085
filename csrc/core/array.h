// A view of a caller's array. Every loop on every device takes its arrays in this form.
#pragma once

#include <cstdint>

#include "core/config.h"

namespace gradfuse {

enum class DType : std::uint8_t { f16, bf16, f32, f64, i32, i64 };  // integers: class indices only

GRADFUSE_HD constexpr std::int64_t itemsize(DType d) {
    return d == DType::f64 || d == DType::i64 ? 8 : d == DType::f32 || d == DType::i32 ? 4 : 2;
}

// Half types are computed in float, float64 in double.
GRADFUSE_HD constexpr bool computes_in_double(DType d) { return d == DType::f64; }

constexpr int cpu_device = -1;

struct Array {
    static constexpr int max_dims = 16;

    void* data = nullptr;
    DType dtype = DType::f32;
    bool dense = true;                 // C-contiguous and aligned to its item size
    std::int16_t device = cpu_device;  // or the number of a CUDA device
    int ndim = 0;
    std::int64_t size = 0;
    std::int64_t shape[max_dims];
    std::int64_t strides[max_dims];  // in bytes

    Array() {}  // shape and strides beyond ndim stay unset: a call on 16 floats must not clear 256 bytes
};

inline Array dense_doubles(double* data, std::int64_t n) {
    Array a;
    a.data = data;
    a.dtype = DType::f64;
    a.ndim = 1;
    a.size = a.shape[0] = n;
    a.strides[0] = sizeof(double);
    return a;
}

// One double per group, as an array; a null pointer if the data is absent.
class GroupDoubles {
public:
    GroupDoubles(const double* data, std::int64_t n) : array_(dense_doubles(const_cast<double*>(data), n)) {}
    operator const Array*() const { return array_.data ? &array_ : nullptr; }

private:
    Array array_;
};

// The index of element i of an array when its axes are in another order.
struct ElementOrder {
    int ndim = 0;  // 0: the same order
    std::int64_t shape[Array::max_dims], strides[Array::max_dims];

    GRADFUSE_HD std::int64_t operator()(std::int64_t i) const {
        if (ndim == 0) return i;
        std::int64_t number = 0;
        for (int d = ndim - 1; d >= 0; --d) {
            const std::int64_t rest = i / shape[d];
            number += (i - rest * shape[d]) * strides[d];
            i = rest;
        }
        return number;
    }
};

// The shape of an array around one axis: [outer][channels][inner] in C order.
struct ChannelShape {
    std::int64_t outer = 1, channels = 1, inner = 1;

    GRADFUSE_HD std::int64_t size() const { return outer * channels * inner; }
};

inline ChannelShape channel_shape(const Array& x, int axis) {
    ChannelShape s;
    for (int d = 0; d < x.ndim; ++d) (d < axis ? s.outer : d == axis ? s.channels : s.inner) *= x.shape[d];
    return s;
}

}  // namespace gradfuse
