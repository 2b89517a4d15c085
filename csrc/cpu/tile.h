// Tiles: runs of an array's elements, in C order, as contiguous values of the compute type.
//
// A dense array of the compute type is used in place, without a copy. All other arrays (half types, strides,
// misalignment) are converted through a scratch buffer that stays in L1. So each loop is written once.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/array.h"
#include "core/dtype.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

constexpr std::int64_t tile_size = 2048;

template <class T>
constexpr DType dtype_of = sizeof(T) == 8 ? DType::f64 : DType::f32;

template <class T>
struct alignas(64) Buffer {
    T data[tile_size];
};

// Calls f(pointer, count, stride) for the runs along the last axis that contain elements [start, start + n).
template <class F>
inline void for_runs(const Array& a, std::int64_t start, std::int64_t n, const F& f) {
    char* const base = static_cast<char*>(a.data);
    if (a.dense || a.ndim == 0) {
        const std::int64_t step = itemsize(a.dtype);
        f(base + start * step, n, step);
        return;
    }
    std::int64_t index[Array::max_dims];
    std::int64_t rest = start, offset = 0;
    for (int d = a.ndim - 1; d >= 0; --d) {
        index[d] = rest % a.shape[d];
        rest /= a.shape[d];
        offset += index[d] * a.strides[d];
    }
    const int last = a.ndim - 1;
    while (true) {
        const std::int64_t left = a.shape[last] - index[last], run = left < n ? left : n;
        f(base + offset, run, a.strides[last]);
        n -= run;
        if (n == 0) return;
        offset -= index[last] * a.strides[last];
        index[last] = 0;
        int d = last - 1;
        for (; ++index[d] == a.shape[d]; --d) {
            offset -= (a.shape[d] - 1) * a.strides[d];
            index[d] = 0;
        }
        offset += a.strides[d];
    }
}

template <class S, class T>
inline void load_run(const char* from, std::int64_t n, std::int64_t stride, T* to) {
    if (stride == sizeof(S)) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
            S s;
            std::memcpy(&s, from + i * sizeof(S), sizeof(S));
            to[i] = Storage<S>::template load<T>(s);
        }
    } else {
        for (std::int64_t i = 0; i < n; ++i) {
            S s;
            std::memcpy(&s, from + i * stride, sizeof(S));
            to[i] = Storage<S>::template load<T>(s);
        }
    }
}

template <class S, class T>
inline void store_run(const T* from, std::int64_t n, std::int64_t stride, char* to) {
    if (stride == sizeof(S)) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
            const S s = Storage<S>::store(from[i]);
            std::memcpy(to + i * sizeof(S), &s, sizeof(S));
        }
    } else {
        for (std::int64_t i = 0; i < n; ++i) {
            const S s = Storage<S>::store(from[i]);
            std::memcpy(to + i * stride, &s, sizeof(S));
        }
    }
}

// Elements [start, start + n) in the compute type: in place if possible, otherwise in `scratch`.
template <class T>
class Reader {
public:
    explicit Reader(const Array& a) : array_(a), direct_(a.dense && a.dtype == dtype_of<T>) {}

    bool direct() const { return direct_; }

    GRADFUSE_HD const T* operator()(std::int64_t start, std::int64_t n, T* scratch) const {
        if (direct_) return static_cast<const T*>(array_.data) + start;
        load(start, n, scratch);
        return scratch;
    }

    __attribute__((noinline)) void load(std::int64_t start, std::int64_t n, T* to) const {
        if (n == 0) return;
        with_storage(array_.dtype, [&](auto storage) {
            for_runs(array_, start, n, [&](const char* from, std::int64_t count, std::int64_t stride) {
                load_run<decltype(storage)>(from, count, stride, to);
                to += count;
            });
        });
    }

private:
    const Array& array_;
    const bool direct_;
};

// The place to compute elements [start, start + n); `commit` copies them to the array if needed.
template <class T>
class Writer {
public:
    explicit Writer(const Array& a) : array_(a), direct_(a.dense && a.dtype == dtype_of<T>) {}

    bool direct() const { return direct_; }

    GRADFUSE_HD T* operator()(std::int64_t start, T* scratch) const {
        return direct_ ? static_cast<T*>(array_.data) + start : scratch;
    }
    GRADFUSE_HD void commit(std::int64_t start, std::int64_t n, const T* from) const {
        if (!direct_) store(start, n, from);
    }

    __attribute__((noinline)) void store(std::int64_t start, std::int64_t n, const T* from) const {
        if (n == 0) return;
        with_storage(array_.dtype, [&](auto storage) {
            for_runs(array_, start, n, [&](char* to, std::int64_t count, std::int64_t stride) {
                store_run<decltype(storage)>(from, count, stride, to);
                from += count;
            });
        });
    }

private:
    const Array& array_;
    const bool direct_;
};

// Calls f with a value of the type that arrays of `dtype` are computed in.
template <class F>
GRADFUSE_HD void with_compute_type(DType dtype, const F& f) {
    if (computes_in_double(dtype)) {
        f(double{});
    } else {
        f(float{});
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
