// The operations that are fused after a normalization's affine: an activation and dropout.
#pragma once

#include "cuda/random.cuh"
#include "cuda/stage.cuh"

namespace gradfuse::cuda {
inline namespace GRADFUSE_ISA {

template <class T, class Order = OwnOrder>
struct Epilogue {
    Stage<T> activation;
    Dropout dropout;
    Order numbers;  // the elements' indices for dropout

    Epilogue(const Activation& activation, const Dropout& dropout, const Order& numbers = {})
        : activation(activation), dropout(dropout), numbers(numbers) {}

    template <int V, class At>
    GRADFUSE_DEVICE void forward(const At& at, T (&z)[V]) const {
        activation.forward(z);
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
struct NoEpilogue {
    template <class... Any>
    explicit NoEpilogue(const Any&...) {}
    template <class... Any>
    GRADFUSE_DEVICE void forward(const Any&...) const {}
    template <class... Any>
    GRADFUSE_DEVICE void backward(const Any&...) const {}
};

}  // namespace GRADFUSE_ISA
}  // namespace gradfuse::cuda
