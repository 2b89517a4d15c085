// The operations that are fused after a normalization's affine: an activation and dropout.
#pragma once

#include "cuda/random.cuh"
#include "cuda/stage.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

template <template <class> class Formula, template <class> class... Formulas>
constexpr int row_of(List<Formulas...>) {
    int row = 0;
    (void)((std::is_same_v<Formula<float>, Formulas<float>> || (++row, false)) || ...);
    return row;
}

// The activations that a kernel supports. Supporting the whole list needs most of the registers and of the compile
// time.
enum class Ending { none, relu, any };

inline bool is_at_most_relu(const Activation& a) { return a.row < 0 || a.row == row_of<Relu>(Activations{}); }

template <class T, Ending, class Order = OwnOrder>
struct Epilogue {
    Stage<T> activation;
    Dropout dropout;
    Order numbers;  // the elements' indices for dropout

    Epilogue(const Activation& activation, const Dropout& dropout, const Order& numbers = {})
        : activation(activation), dropout(dropout), numbers(numbers) {}

    template <int V, class At>
    GRADFUSE_DEVICE void forward(const At& at, T (&z)[V]) const {
        if (activation) activation.forward(z);
        if (dropout.threshold) drop(dropout, numbers, at, z);
    }
    // make_z(z) computes the input again.
    template <int V, class At, class MakeZ>
    GRADFUSE_DEVICE void backward(const At& at, T (&dy)[V], const MakeZ& make_z) const {
        if (dropout.threshold) drop(dropout, numbers, at, dy);
        if (!activation) return;
        T z[V];
        make_z(z);
        activation.backward(dy, z);
    }
};
template <class T, class Order>
struct Epilogue<T, Ending::relu, Order> {
    bool relu;
    Dropout dropout;

    Epilogue(const Activation& activation, const Dropout& dropout) : relu(activation.row >= 0), dropout(dropout) {}

    template <int V, class At>
    GRADFUSE_DEVICE void forward(const At& at, T (&z)[V]) const {
        const Relu<T> f(nullptr);
#pragma unroll
        for (int j = 0; j < V; ++j) z[j] = relu ? f.forward(z[j]) : z[j];
        if (dropout.threshold) drop(dropout, at, z);
    }
    template <int V, class At, class MakeZ>
    GRADFUSE_DEVICE void backward(const At& at, T (&dy)[V], const MakeZ& make_z) const {
        if (dropout.threshold) drop(dropout, at, dy);
        if (!relu) return;
        const Relu<T> f(nullptr);
        T z[V];
        make_z(z);
#pragma unroll
        for (int j = 0; j < V; ++j) dy[j] = f.backward(dy[j], z[j]);
    }
};
template <class T, class Order>
struct Epilogue<T, Ending::none, Order> {
    template <class... Any>
    explicit Epilogue(const Any&...) {}
    template <class... Any>
    GRADFUSE_DEVICE void forward(const Any&...) const {}
    template <class... Any>
    GRADFUSE_DEVICE void backward(const Any&...) const {}
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
