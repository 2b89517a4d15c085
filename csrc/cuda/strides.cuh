// Arrays that are not dense: where their elements lie, and dense copies of them for the kernels.
#pragma once

#include <optional>

#include "core/array.h"
#include "cuda/launch.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// Quotients and remainders of indices, in 32 bits where they all fit.
struct Divider {
    explicit Divider(std::int64_t divisor = 1, std::int64_t size = 0)
        : divisor(divisor), narrow(size <= 0xffffffff && divisor <= 0xffffffff) {}

    GRADFUSE_HD std::int64_t divide(std::int64_t i) const {
        return narrow ? std::int64_t(std::uint32_t(i) / std::uint32_t(divisor)) : i / divisor;
    }

    // Takes an axis of this extent, the last one, off an index.
    GRADFUSE_HD std::int64_t split(std::int64_t& index) const {
        const std::int64_t rest = divide(index), last = index - rest * divisor;
        index = rest;
        return last;
    }

    std::int64_t divisor;
    bool narrow;
};

// Where the elements of a strided array lie, its axes merged where they can be.
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

    // In bytes, of the element with index i in C order.
    GRADFUSE_HD std::int64_t offset(std::int64_t i) const {
        std::int64_t at = 0;
        for (int d = ndim - 1; d >= 0; --d) at += extent[d].split(i) * strides[d];
        return at;
    }

    int ndim = 0;
    Divider extent[Array::max_dims];
    std::int64_t strides[Array::max_dims] = {};
};

// Whether every element is on a boundary of its size.
inline bool is_aligned(const Array& a) {
    std::uintptr_t bits = reinterpret_cast<std::uintptr_t>(a.data);
    for (int d = 0; d < a.ndim; ++d) bits |= std::uintptr_t(a.strides[d]);
    return a.dense || bits % std::uintptr_t(itemsize(a.dtype)) == 0;
}

}  // namespace GRADFUSE_ISA

// A dense array in the call's scratch memory, with the elements of `from` or to be written.
using devices::copy_elements;

Array dense_like(const Array& like);

// What a kernel reads: the array itself, or a dense copy.
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

// The same on a boundary of 16 bytes: how a kernel cuts its work, and so its rounding, does not depend on where a few
// numbers lie.
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

// What a kernel writes: the array itself, or dense memory that `commit` brings home.
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

// Both.
class DenseInOut : public DenseOutput {
public:
    DenseInOut(const Array& a) : DenseOutput(a) {
        if (!a.dense) copy_elements(a, **this);
    }
};

// Of an array that may be absent.
template <class D>
std::optional<D> dense_or_none(const Array* a) {
    return a ? std::optional<D>(std::in_place, *a) : std::nullopt;
}
template <class D>
const Array* pointer_to(const std::optional<D>& d) {
    return d ? &**d : nullptr;
}

}  // namespace gradfuse::cuda
