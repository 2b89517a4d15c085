// Dense arrays for kernels. A thread takes a vector of V elements at a time, in accesses of 16 bytes if the array
// begins on a boundary of 16.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "core/dtype.h"
#include "cuda/launch.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

// The number of elements of a storage type in one access of 16 bytes.
template <class S>
constexpr int per_access = 16 / sizeof(S);

// The part of a vector of V that one access moves.
template <class S, int V>
struct alignas(V < per_access<S> ? V * sizeof(S) : 16) Access {
    static constexpr int count = V < per_access<S> ? V : per_access<S>;
    S element[count];
};

// The type that elements of a storage type are computed in.
template <class S>
struct ComputeType {
    using type = float;
};
template <>
struct ComputeType<double> {
    using type = double;
};
template <class S>
using Compute = typename ComputeType<S>::type;

// A vector as it lies in memory, also in shared memory. Elements of 16 bits stay in words of two: if a vector were
// divided into elements right after its load, the next load would wait for it.
template <class S, int V, bool Pairs = sizeof(S) == 2 && V % 2 == 0>
struct alignas(V * sizeof(S) % 16 == 0 ? 16 : alignof(S)) Raw {
    using Unit = S;
    static constexpr int units = V;
    Unit unit[units];

    GRADFUSE_DEVICE S get(int j) const { return unit[j]; }
    GRADFUSE_DEVICE void set(int j, S s) { unit[j] = s; }  // in order of j
};
template <class S, int V>
struct alignas(V * sizeof(S) % 16 == 0 ? 16 : 4) Raw<S, V, true> {
    using Unit = std::uint32_t;
    static constexpr int units = V / 2;
    Unit unit[units];

    GRADFUSE_DEVICE S get(int j) const { return S{std::uint16_t(unit[j / 2] >> (j % 2 * 16))}; }
    GRADFUSE_DEVICE void set(int j, S s) { unit[j / 2] = j % 2 ? unit[j / 2] | std::uint32_t(s.bits) << 16 : s.bits; }
};

template <class S, int V>
GRADFUSE_DEVICE void widen(const Raw<S, V>& from, Compute<S> (&to)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = Storage<S>::template load<Compute<S>>(from.get(j));
}
template <class S, int V>
GRADFUSE_DEVICE void narrow(const Compute<S> (&from)[V], S (&to)[V]) {
#pragma unroll
    for (int j = 0; j < V; ++j) to[j] = Storage<S>::store(from[j]);
}

template <class S>
S* pointer(const Array* a) {
    return a ? static_cast<S*>(a->data) : nullptr;
}

template <class S>
class View {
public:
    View() = default;
    GRADFUSE_HD View(void* data, bool wide) : data_(static_cast<S*>(data)), wide_(wide) {}
    explicit View(const Array& dense) : View(dense.data, reinterpret_cast<std::uintptr_t>(dense.data) % 16 == 0) {}

    // Elements [i, i + n), n <= V; the rest of the vector is zero. `whole` promises that i is a multiple of V. An
    // unsigned index needs fewer instructions.
    template <int V, class Index>
    GRADFUSE_DEVICE void load(Index i, int n, bool whole, Raw<S, V>& to) const {
        using R = Raw<S, V>;
        using A = Access<typename R::Unit, R::units>;
        if (wide_ && whole && n == V) {
            const auto* from = reinterpret_cast<const A*>(data_) + i / Index(sizeof(A) / sizeof(S));
#pragma unroll
            for (int k = 0; k < R::units / A::count; ++k) {
                const A access = from[k];
#pragma unroll
                for (int j = 0; j < A::count; ++j) to.unit[k * A::count + j] = access.element[j];
            }
            return;
        }
#pragma unroll
        for (int j = 0; j < V; ++j) to.set(j, j < n ? data_[i + j] : S{});
    }

    template <int V>
    GRADFUSE_DEVICE void store(std::int64_t i, int n, bool whole, const S (&from)[V]) const {
        using A = Access<S, V>;
        if (wide_ && whole && n == V) {
            auto* to = reinterpret_cast<A*>(data_) + std::uint64_t(i) / A::count;
#pragma unroll
            for (int k = 0; k < V / A::count; ++k) {
                A access;
#pragma unroll
                for (int j = 0; j < A::count; ++j) access.element[j] = from[k * A::count + j];
                to[k] = access;
            }
            return;
        }
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if (j < n) data_[i + j] = from[j];
        }
    }

    // The same, converted to the compute type.
    template <int V>
    GRADFUSE_DEVICE void read(std::int64_t i, int n, bool whole, Compute<S> (&to)[V]) const {
        Raw<S, V> raw;
        load(i, n, whole, raw);
        widen(raw, to);
    }
    template <int V>
    GRADFUSE_DEVICE void write(std::int64_t i, int n, bool whole, const Compute<S> (&from)[V]) const {
        S raw[V];
        narrow<S>(from, raw);
        store(i, n, whole, raw);
    }

private:
    S* data_ = nullptr;
    bool wide_ = true;
};

// An array of any dtype for doubles, a number per group. If it is absent, nothing is written.
class DoubleView {
public:
    DoubleView() = default;
    explicit DoubleView(const Array* dense)
        : data_(dense ? dense->data : nullptr), dtype_(dense ? dense->dtype : DType::f64) {}

    GRADFUSE_DEVICE void set(std::int64_t i, double value) const {
        if (!data_) return;
        with_storage(dtype_, [&](auto s) {
            using S = decltype(s);
            static_cast<S*>(data_)[i] = Storage<S>::store(value);
        });
    }

private:
    void* data_ = nullptr;
    DType dtype_ = DType::f64;
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
