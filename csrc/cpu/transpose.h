// Transposes short rows to columns and back, so that each lane can have one row.
#pragma once

#include <cstring>

#include "cpu/lanes.h"

namespace gradfuse {
inline namespace GRADFUSE_ISA {

// Transposes a square of vectors: halves are exchanged, then quarters, and so on (Eklundh 1972).
template <class T, int Half = vector_lanes<T> / 2>
GRADFUSE_HD void transpose_square(Vector<T> (&v)[vector_lanes<T>]) {
    constexpr int V = vector_lanes<T>;
    typename VectorOf<T>::index low, high;
    for (int l = 0; l < V; ++l) {
        low[l] = l & Half ? V + l - Half : l;
        high[l] = l & Half ? V + l : l + Half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i) {
        if (i & Half) continue;
        const Vector<T> a = v[i], b = v[i + Half];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + Half] = __builtin_shuffle(a, b, high);
    }
    if constexpr (Half > 1) transpose_square<T, Half / 2>(v);
}

// Loads and stores the first `there` elements of a vector, or all.
template <class T>
GRADFUSE_HD void load_some(const T* from, std::int64_t there, Vector<T>& v) {
    v = Vector<T>{};
    if (there > 0) std::memcpy(&v, from, sizeof(T) * std::size_t(there));
}
template <class T>
GRADFUSE_HD void store_some(const Vector<T>& v, std::int64_t there, T* to) {
    if (there > 0) std::memcpy(to, &v, sizeof(T) * std::size_t(there));
}

// columns[k * stride + r] = rows[r * length + k] for `count` rows. Columns are written in whole vectors: their number
// and their length are rounded up to a multiple of a vector's lanes.
template <class T>
void to_columns(const T* rows, std::int64_t count, std::int64_t length, T* columns, std::int64_t stride) {
    constexpr int V = vector_lanes<T>;
    for (std::int64_t r = 0; r < count; r += V) {
        for (std::int64_t k = 0; k < length; k += V) {
            const T* const from = rows + r * length + k;
            const std::int64_t left = (count - r) * length - k;
            Vector<T> v[V];
            if (left >= (V - 1) * length + V) {
#pragma GCC unroll 16
                for (int i = 0; i < V; ++i) std::memcpy(&v[i], from + i * length, sizeof v[i]);
            } else {
                for (int i = 0; i < V; ++i) {
                    const std::int64_t there = left - i * length;
                    load_some(from + i * length, there < V ? there : V, v[i]);
                }
            }
            transpose_square<T>(v);
#pragma GCC unroll 16
            for (int i = 0; i < V; ++i) std::memcpy(columns + (k + i) * stride + r, &v[i], sizeof v[i]);
        }
    }
}

// The reverse. A vector may write beyond its row into the next rows, which are written later.
template <class T>
void to_rows(const T* columns, std::int64_t stride, std::int64_t count, std::int64_t length, T* rows) {
    constexpr int V = vector_lanes<T>;
    for (std::int64_t k = (length - 1) / V * V; k >= 0; k -= V) {
        for (std::int64_t r = 0; r < count; r += V) {
            T* const to = rows + r * length + k;
            const std::int64_t left = (count - r) * length - k;
            Vector<T> v[V];
#pragma GCC unroll 16
            for (int i = 0; i < V; ++i) std::memcpy(&v[i], columns + (k + i) * stride + r, sizeof v[i]);
            transpose_square<T>(v);
            if (left >= (V - 1) * length + V) {
#pragma GCC unroll 16
                for (int i = 0; i < V; ++i) std::memcpy(to + i * length, &v[i], sizeof v[i]);
            } else {
                for (int i = 0; i < V; ++i) {
                    const std::int64_t there = left - i * length;
                    store_some(v[i], there < V ? there : V, to + i * length);
                }
            }
        }
    }
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
