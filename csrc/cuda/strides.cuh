// Arrays that are not dense: the offsets of their elements, and dense copies for the kernels.
#pragma once

#include <optional>

#include "core/array.h"
#include "cuda/launch.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// Quotients and remainders of indices below `size`. Below 2^31 a product replaces the division: it is exact because
// inverse * divisor - 2^shift < divisor <= 2^(shift - 31).
struct Divider {
    explicit Divider(std::int64_t divisor = 1, std::int64_t size = 0)
        : divisor(divisor), narrow(size <= std::int64_t(1) << 31 && divisor > 0 && divisor <= std::int64_t(1) << 31) {
        if (!narrow) return;
        while (divisor > std::int64_t(1) << (shift - 31)) ++shift;
        inverse = std::uint32_t(((std::uint64_t(1) << shift) + std::uint64_t(divisor) - 1) / std::uint64_t(divisor));
    }

    GRADFUSE_HD std::int64_t divide(std::int64_t i) const {
        return narrow ? std::int64_t(std::uint64_t(std::uint32_t(i)) * inverse >> shift) : i / divisor;
    }

    // Removes the last axis, of this length, from an index, and returns the index along it.
    GRADFUSE_HD std::int64_t split(std::int64_t& index) const {
        const std::int64_t rest = divide(index), last = index - rest * divisor;
        index = rest;
        return last;
    }

    std::int64_t divisor;
    std::uint32_t inverse = 0;
    int shift = 31;
    bool narrow;
};

// The offsets of the elements of a strided array. Axes are merged if possible.
struct Strides {
    Strides() = default;
    explicit Strides(const Array& a) {
        for (int d = 0; d < a.ndim; ++d) {
            if (a.shape[d] == 1) continue;
            if (ndim > 0 && strides[ndim - 1] == a.strides[d] * a.shape[d]) {
                extent[ndim - 1] = Divider(extent[ndim - 1].divisor * a.shape[d], a.size);
            } else {
                extent[ndim++] = Divider(a.shape[d], a.size);
            }
            strides[ndim - 1] = a.strides[d];
        }
    }

    // The offset in bytes of the element with index i in C order.
    GRADFUSE_HD std::int64_t offset(std::int64_t i) const {
        std::int64_t at = 0;
        for (int d = ndim - 1; d >= 0; --d) at += extent[d].split(i) * strides[d];
        return at;
    }

    int ndim = 0;
    Divider extent[Array::max_dims];
    std::int64_t strides[Array::max_dims] = {};
};

// Whether every element is aligned to its size.
inline bool is_aligned(const Array& a) {
    std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(a.data);
    for (int d = 0; d < a.ndim; ++d) bits |= std::uintptr_t(a.strides[d]);
    return a.dense || bits % std::uintptr_t(itemsize(a.dtype)) == 0;
}

}  // namespace GRADFUSE_ISA

// A dense array in the call's scratch memory: a copy of `from`, or an array to write.
using devices::copy_elements;

Array dense_like(const Array& like);

// An array for a kernel to read: the array itself, or a dense copy.
class Dense {
public:
    Dense(const Array& a) : array_(a.dense ? a : dense_like(a)) {
        if (!a.dense) copy_elements(a, array_);
    }
    operator const Array&() const { return array_; }
    const Array& operator*() const { return array_; }
    const Array* operator->() const { return &array_; }

private:
    const Array array_;
};

// The same on a boundary of 16 bytes: so a kernel's division of work, and its rounding, do not depend on the address.
class WideDense {
public:
    WideDense(const Array& a) : WideDense(a, a.dense && reinterpret_cast<std::uintptr_t>(a.data) % 16 == 0) {}
    const Array& operator*() const { return array_; }

private:
    WideDense(const Array& a, bool as_it_is) : array_(as_it_is ? a : dense_like(a)) {
        if (!as_it_is) copy_elements(a, array_);
    }
    const Array array_;
};

// An array for a kernel to write: the array itself, or dense memory that `commit` copies to it.
class DenseOutput {
public:
    DenseOutput(const Array& a) : home_(a), array_(a.dense ? a : dense_like(a)) {}
    operator const Array&() const { return array_; }
    const Array& operator*() const { return array_; }
    void commit() const {
        if (!home_.dense) copy_elements(array_, home_);
    }

private:
    const Array& home_;
    const Array array_;
};

// An array for a kernel to read and write.
class DenseInOut : public DenseOutput {
public:
    DenseInOut(const Array& a) : DenseOutput(a) {
        if (!a.dense) copy_elements(a, **this);
    }
};

// For an array that may be absent.
template <class D>
std::optional<D> dense_or_none(const Array* a) {
    return a ? std::optional<D>(std::in_place, *a) : std::nullopt;
}
template <class D>
const Array* pointer_to(const std::optional<D>& d) {
    return d ? &**d : nullptr;
}

}  // namespace gradfuse::cuda
