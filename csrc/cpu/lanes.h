// Loops that GCC vectorizes: over elements, and over elements that are dealt to lanes and joined in a tree.
//
// The body of such a loop must be a function (an always-inline lambda): GCC gives every struct that is declared in the
// loop itself and passed by reference a place in memory for each lane, and does not vectorize it.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "core/config.h"

#define GRADFUSE_INLINE __attribute__((always_inline))

namespace gradfuse {
inline namespace GRADFUSE_ISA {

template <int N>
using Indices = std::make_index_sequence<std::size_t(N)>;

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
template <class T>
constexpr int vector_lanes = vector_bytes / int(sizeof(T));

// 0, 1, 2 ... Weak, so that the compiler must load them: of a condition on numbers that it knows, GCC makes two loops
// with other bounds, and calls nothing but whole vectors packed.
template <class T>
struct alignas(64) LaneNumbers {
    T value[16];
};
#define GRADFUSE_OPAQUE __attribute__((weak, visibility("hidden"))) extern const
GRADFUSE_OPAQUE LaneNumbers<float> float_lanes = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
GRADFUSE_OPAQUE LaneNumbers<double> double_lanes = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};
#undef GRADFUSE_OPAQUE
GRADFUSE_HD const float* lane_numbers(float) { return float_lanes.value; }
GRADFUSE_HD const double* lane_numbers(double) { return double_lanes.value; }

constexpr int power_of_two_from(int n) { return n <= 1 ? 1 : 2 * power_of_two_from((n + 1) / 2); }

// How many lanes K sums of type T are dealt to: as many as 256 bytes hold of them all, on every instruction set.
template <class T, int K>
constexpr int lanes_of = 256 / int(sizeof(T)) / power_of_two_from(K);

// body(i) for i in [0, n).
template <class Int, class Body>
GRADFUSE_HD void for_lanes(Int n, const Body& body) {
#pragma omp simd
    for (Int i = 0; i < n; ++i) body(i);
}

// body(l, i, position, there) for i in [0, n): element i goes to lane i % L, position is at + i as a T. Where vectors
// have masks the last elements come in whole vectors too: those beyond n are not `there`, and are neither read nor
// written.
template <class T, int L, class Body>
GRADFUSE_HD void in_lanes(std::int64_t n, const Body& body) {
    std::int64_t i = 0;
    for (; i + L <= n; i += L) {
        const T position = T(int(i));
#pragma omp simd
        for (int l = 0; l < L; ++l) body(l, i + l, position + T(l), true);
    }
    const int rest = int(n - i);
    const T position = T(int(i));
#if defined(__AVX2__)
    constexpr int V = vector_lanes<T>;
    for (int first = 0; first < rest; first += V) {
        const T* const number = lane_numbers(T{});
        const T left = T(rest - first), at = position + T(first);
#pragma omp simd
        for (int l = 0; l < V; ++l) body(first + l, i + first + l, at + number[l], number[l] < left);
    }
#else
#pragma omp simd
    for (int l = 0; l < rest; ++l) body(l, i + l, position + T(l), true);
#endif
}

// body(i, position, there) for i in [0, n), likewise.
template <class T, class Body>
GRADFUSE_HD void for_elements(int n, int at, const Body& body) {
#if defined(__AVX2__)
    constexpr int V = vector_lanes<T>;
    const int whole = n / V * V;
#pragma omp simd
    for (int i = 0; i < whole; ++i) body(i, T(at + i), true);
    if (whole == n) return;
    const T* const number = lane_numbers(T{});
    const T left = T(n - whole), from = T(at + whole);
#pragma omp simd
    for (int l = 0; l < V; ++l) body(whole + l, from + number[l], number[l] < left);
#else
#pragma omp simd
    for (int i = 0; i < n; ++i) body(i, T(at + i), true);
#endif
}

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(vector_bytes)));
    typedef std::int32_t index __attribute__((vector_size(vector_bytes)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(vector_bytes)));
    typedef std::int64_t index __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <int Half, class T, class Join>
GRADFUSE_HD T join_vector(const Vector<T>& v, const Join& join) {
    if constexpr (Half == 0) {
        return v[0];
    } else {
        typename VectorOf<T>::index upper;
        for (int l = 0; l < vector_lanes<T>; ++l) upper[l] = l < Half ? l + Half : l;
        const Vector<T> joined = join(v, Vector<T>(__builtin_shuffle(v, upper)));
        return join_vector<Half / 2, T>(joined, join);
    }
}

// Joins lane l with lane l + L / 2, and so on: the order is that of L alone. Vectors while they are whole, then halves
// of one vector (a narrower load of what has just been stored would wait for the store, at every level).
template <int L, class T, class Join>
GRADFUSE_HD T join_lanes(const T (&lanes)[L], const Join& join) {
    constexpr int V = vector_lanes<T>, count = L / V;
    static_assert(count >= 1);
    Vector<T> v[count];
    std::memcpy(v, lanes, sizeof v);
#pragma GCC unroll 16
    for (int half = count / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
        for (int k = 0; k < half; ++k) v[k] = join(v[k], v[half + k]);
    }
    return join_vector<V / 2, T>(v[0], join);
}

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse
