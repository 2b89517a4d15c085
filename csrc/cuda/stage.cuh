// An activation chosen at run time, inside a fused kernel: every thread takes the same branch.
#pragma once

#include <cstddef>
#include <new>

#include "core/backend.h"
#include "cuda/launch.h"
#include "formulas/activations/list.h"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

template <class T, template <class> class... Formulas>
constexpr std::size_t largest_formula(List<Formulas...>) {
    std::size_t largest = 0;
    ((largest = sizeof(Formulas<T>) > largest ? sizeof(Formulas<T>) : largest), ...);
    return largest;
}

template <template <class> class Formula, template <class> class... Formulas>
constexpr int row_of(List<Formulas...>) {
    int row = 0;
    (void)((std::is_same_v<Formula<float>, Formulas<float>> || (++row, false)) || ...);
    return row;
}

// A formula of the list with its constants, or none. A call takes AtOnce elements: more of them take less time each,
// and more code and registers.
template <class T, int AtOnce = 1>
class Stage {
public:
    Stage() = default;
    explicit Stage(const Activation& a) : row_(a.row) {
        visit([&](auto& formula) { new (&formula) std::remove_reference_t<decltype(formula)>(a.parameters); });
    }

    GRADFUSE_HD explicit operator bool() const { return row_ >= 0; }

    template <int V>
    GRADFUSE_DEVICE void forward(T (&x)[V]) const {
        if (is_relu()) {
            const Relu<T> f(nullptr);
#pragma unroll
            for (int j = 0; j < V; ++j) x[j] = f.forward(x[j]);
        } else if (*this) {
            in_parts(x, x, [&](auto part, const auto&) { return forward_of(*this, part); });
        }
    }
    // Replaces dy by the gradient at x, the input of forward.
    template <int V>
    GRADFUSE_DEVICE void backward(T (&dy)[V], const T (&x)[V]) const {
        if (is_relu()) {
            const Relu<T> f(nullptr);
#pragma unroll
            for (int j = 0; j < V; ++j) dy[j] = f.backward(dy[j], x[j]);
        } else if (*this) {
            in_parts(dy, x, [&](auto part, const auto& at) { return backward_of(*this, part, at); });
        }
    }

private:
    template <int N>
    struct Part {
        T v[N];
    };
    static constexpr int relu = row_of<Relu>(Activations{});
    GRADFUSE_DEVICE bool is_relu() const { return row_ == relu; }
    // Functions that are called: inlined, the formulas of the whole list would be most of a kernel.
    template <int N>
    GRADFUSE_CALLED static Part<N> forward_of(const Stage& stage, Part<N> x) {
        const_cast<Stage&>(stage).visit([&](const auto& f) {
#pragma unroll
            for (int j = 0; j < N; ++j) x.v[j] = f.forward(x.v[j]);
        });
        return x;
    }
    template <int N>
    GRADFUSE_CALLED static Part<N> backward_of(const Stage& stage, Part<N> dy, Part<N> x) {
        const_cast<Stage&>(stage).visit([&](const auto& f) {
            constexpr bool from_y = std::remove_reference_t<decltype(f)>::info.saves == Saves::y;
#pragma unroll
            for (int j = 0; j < N; ++j) dy.v[j] = f.backward(dy.v[j], from_y ? f.forward(x.v[j]) : x.v[j]);
        });
        return dy;
    }
    // y = f(y, x) for parts of a vector.
    template <int V, class F>
    static GRADFUSE_DEVICE void in_parts(T (&y)[V], const T (&x)[V], const F& f) {
        constexpr int N = V < AtOnce ? V : AtOnce;
#pragma unroll
        for (int begin = 0; begin < V; begin += N) {
            Part<N> part, at;
#pragma unroll
            for (int j = 0; j < N; ++j) part.v[j] = y[begin + j], at.v[j] = x[begin + j];
            part = f(part, at);
#pragma unroll
            for (int j = 0; j < N; ++j) y[begin + j] = part.v[j];
        }
    }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // f is a host function in the constructor
#endif
    template <class F>
    GRADFUSE_HD void visit(const F& f) {
        visit_row(f, Activations{});
    }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
    template <class F, template <class> class... Formulas>
    GRADFUSE_HD void visit_row(const F& f, List<Formulas...>) {
        int row = 0;
        (void)((row++ == row_ && (f(*reinterpret_cast<Formulas<T>*>(formula_)), true)) || ...);
    }

    int row_ = -1;
    alignas(T) unsigned char formula_[largest_formula<T>(Activations{})];
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
