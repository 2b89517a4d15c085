// Loops that GCC vectorizes: over elements, and over elements that are distributed to lanes and joined in a tree.
//
// The body of such a loop must be a function (an always-inline lambda). If a struct is declared in the loop itself and
// passed by reference, GCC keeps a copy in memory for each lane and does not vectorize the loop.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
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

// 0, 1, 2 ... Weak symbols, so the compiler must load them. If GCC knows the numbers in a condition, it splits the loop
// in two with different bounds, and then vectorizes only whole vectors.
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

// The number of lanes for K sums of type T: together they fill 256 bytes, on every instruction set.
template <class T, int K>
constexpr int lanes_of = 256 / int(sizeof(T)) / power_of_two_from(K);

// f(0), f(1) ... f(N - 1), each number a compile-time constant.
template <class F, int... I>
GRADFUSE_HD void repeat_each(const F& f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
GRADFUSE_HD void repeat(const F& f) {
    repeat_each(f, std::make_integer_sequence<int, N>{});
}

// body(i) for i in [0, n).
template <class Int, class Body>
GRADFUSE_HD void for_lanes(Int n, const Body& body) {
#pragma omp simd
    for (Int i = 0; i < n; ++i) body(i);
}

using True = std::true_type;
using False = std::false_type;

// body(l, i, position, there, whole) for i in [0, n): element i goes to lane i % L, position is i as a T. On
// instruction sets with masks, the last elements are computed in a whole vector too. Elements beyond n are not `there`
// and must not be read. In that vector `whole` is False, and body may only write to temporary arrays with room for all
// lanes of the vector; after_last(first, there) then copies the valid lanes. (LastVector writes the elements
// themselves.)
template <class T, int L, class Body, class AfterLast>
GRADFUSE_HD void in_lanes(std::int64_t n, const Body& body, [[maybe_unused]] const AfterLast& after_last) {
    std::int64_t i = 0;
    for (; i + L <= n; i += L) {
        const T position = T(int(i));
#pragma omp simd
        for (int l = 0; l < L; ++l) body(l, i + l, position + T(l), true, True{});
    }
    const int rest = int(n - i);
    const T position = T(int(i));
#if defined(__AVX2__)
    constexpr int V = vector_lanes<T>;
    int first = 0;
    for (; first + V <= rest; first += V) {
        const T at = position + T(first);
#pragma omp simd
        for (int l = 0; l < V; ++l) body(first + l, i + first + l, at + T(l), true, True{});
    }
    if (first == rest) return;
    const T* const number = lane_numbers(T{});
    const T left = T(rest - first), at = position + T(first);
#pragma omp simd
    for (int l = 0; l < V; ++l) body(first + l, i + first + l, at + number[l], number[l] < left, False{});
    after_last(first, rest - first);
#else
#pragma omp simd
    for (int l = 0; l < rest; ++l) body(l, i + l, position + T(l), true, True{});
#endif
}

template <class T, int L, class Body>
GRADFUSE_HD void in_lanes(std::int64_t n, const Body& body) {
    in_lanes<T, L>(n, body, [](int, int) {});
}

// For instruction sets with masks: the values of the last elements of [0, n) if they do not fill a vector. They are
// computed first, because the output may be the input, and written last, in a whole vector that begins before them,
// because masked stores are slow. value(i, position, there): position is i as a T.
template <class T>
class LastVector {
#if defined(__AVX2__)
    static constexpr int V = vector_lanes<T>;

public:
    template <class Value>
    GRADFUSE_HD LastVector(int n, const Value& value) : n_(n), whole_(n / V * V) {
        const T* const number = lane_numbers(T{});
        const int first = n - V;
        if (whole_ == n) {
            return;
        } else if (first >= 0) {
            const T from = T(first);
#pragma omp simd
            for (int l = 0; l < V; ++l) v_[l] = value(first + l, from + number[l], true);
        } else {
            const T left = T(n);
#pragma omp simd
            for (int l = 0; l < V; ++l) v_[l] = value(l, number[l], number[l] < left);
        }
    }
    GRADFUSE_HD int before() const { return whole_; }
    GRADFUSE_HD void store(T* to) const {
        if (whole_ == n_) {
            return;
        } else if (n_ >= V) {
            std::memcpy(to + n_ - V, v_, sizeof v_);
        } else {
            std::memcpy(to, v_, sizeof(T) * std::size_t(n_));
        }
    }

private:
    const int n_, whole_;
    alignas(64) T v_[V];
#else
public:
    template <class Value>
    GRADFUSE_HD LastVector(int n, const Value&) : n_(n) {}
    GRADFUSE_HD int before() const { return n_; }
    GRADFUSE_HD void store(T*) const {}

private:
    const int n_;
#endif
};

// to[i] = value(i, position, there) for i in [0, n).
template <class T, class Value>
GRADFUSE_HD void for_elements(int n, T* to, const Value& value) {
    const LastVector<T> last(n, value);
    const int before = last.before();
#pragma omp simd
    for (int i = 0; i < before; ++i) to[i] = value(i, T(i), true);
    last.store(to);
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

// Copies lanes [first, first + there) from `made`; the other lanes of that vector of T do not change. Whole vectors are
// read, because a masked load would wait for the store before it.
template <class T, class Real, int K, int L>
GRADFUSE_HD void take_lanes(const Real (&made)[K][L], int first, int there, Real (&lanes)[K][L]) {
    constexpr int V = vector_lanes<Real>;
    for (int j = 0; j < vector_lanes<T>; j += V) {
        Vector<Real> number;
        std::memcpy(&number, lane_numbers(Real{}), sizeof number);
        const auto taken = number < Real(there - j);
        for (int k = 0; k < K; ++k) {
            Vector<Real> from, to;
            std::memcpy(&from, made[k] + first + j, sizeof from);
            std::memcpy(&to, lanes[k] + first + j, sizeof to);
            asm("" : "+x"(from), "+x"(to));
            to = taken ? from : to;
            std::memcpy(lanes[k] + first + j, &to, sizeof to);
        }
    }
}

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

// Joins lane l with lane l + L / 2, and so on; the order depends only on L. First whole vectors, then the halves of one
// vector by shuffles (a narrower load would wait for the store before it, at every level).
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
