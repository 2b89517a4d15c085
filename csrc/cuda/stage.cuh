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

// A formula of the list with its constants, or none.
template <class T>
class Stage {
public:
    Stage() = default;
    explicit Stage(const Activation& a) : row_(a.row) {
        visit([&](auto& formula) { new (&formula) std::remove_reference_t<decltype(formula)>(a.parameters); });
    }

    GRADFUSE_HD explicit operator bool() const { return row_ >= 0; }

    template <int V>
    GRADFUSE_DEVICE void forward(T (&x)[V]) const {
        const_cast<Stage*>(this)->visit([&](const auto& f) {
#pragma unroll
            for (int j = 0; j < V; ++j) x[j] = f.forward(x[j]);
        });
    }
    // Replaces dy by the gradient at x, the input of forward.
    template <int V>
    GRADFUSE_DEVICE void backward(T (&dy)[V], const T (&x)[V]) const {
        const_cast<Stage*>(this)->visit([&](const auto& f) {
            constexpr bool from_y = std::remove_reference_t<decltype(f)>::info.saves == Saves::y;
#pragma unroll
            for (int j = 0; j < V; ++j) dy[j] = f.backward(dy[j], from_y ? f.forward(x[j]) : x[j]);
        });
    }

private:
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
