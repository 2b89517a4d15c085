"""What follows a linear map, in one call: bias, batch norm, activation and dropout.

BatchNorm, the activations and Dropout are such epilogues of one member; Sequential joins those that follow each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradfuse
from gradfuse._arrays import Array
from gradfuse.nn.layer import Remembers

if TYPE_CHECKING:
    from gradfuse.nn.activations import Activation
    from gradfuse.nn.dropout import Dropout
    from gradfuse.nn.linear import LinearMap
    from gradfuse.nn.normalization import BatchNorm


class Epilogue(Remembers):
    """[bias of `linear`] [norm] [activation] [dropout], or activation_first: [activation] [norm] [dropout].

    Channels are on `axis`.
    """

    def __init__(
        self,
        axis: int,
        linear: LinearMap | None = None,
        norm: BatchNorm | None = None,
        activation: Activation | None = None,
        dropout: Dropout | None = None,
        activation_first: bool = False,
    ) -> None:
        self.axis = axis
        self.linear = linear
        self.norm = norm
        self.activation = activation
        self.dropout = dropout
        self.activation_first = activation_first

    def _owner(self) -> str:
        return type(self.linear or self.norm or self.activation or self.dropout).__name__

    def forward(self, x: Array, training: bool) -> Array:
        x, axis, order = in_memory_order(x, self.axis)
        activation = self.activation.spec if self.activation else None
        dropout: dict[str, Any] = {}
        if self.dropout is not None and self.dropout.active:
            dropout = {"dropout": self.dropout.p, "rng": self.dropout.rng}
        if self.norm is None:
            bias = self.linear.bias.data if self.linear and self.linear.bias else None
            y, context = gradfuse.bias_act_forward(x, bias, activation, axis=axis, **dropout)
        elif training or self.norm.training:
            y, context = self._normalised(self.norm, x, axis, activation, dropout)
        else:
            y, context = self._inferred(self.norm, x, axis, activation, dropout), None
        self._saved = (order, context) if training else None
        return as_given(y, order)

    def _normalised(
        self, norm: BatchNorm, x: Array, axis: int, activation: Any, dropout: dict[str, Any]
    ) -> tuple[Array, Any]:
        result: tuple[Array, Any] = gradfuse.batch_norm_forward(
            x,
            *norm.arrays,
            norm.momentum,
            norm.eps,
            axis=axis,
            activation=activation,
            order="act_bn" if self.activation_first else "bn_act",
            unbiased=norm.unbiased,
            frozen=norm.frozen or not norm.training,
            num_batches=int(norm.num_batches) if norm.momentum is None else None,
            **dropout,
        )
        if norm.momentum is None and norm.training and not norm.frozen and x.size:
            norm.num_batches += 1
        return result

    def _inferred(self, norm: BatchNorm, x: Array, axis: int, activation: Any, dropout: dict[str, Any]) -> Array:
        if self.activation_first and activation is not None:
            x, activation = gradfuse.bias_act_forward(x, None, activation, axis=axis)[0], None
        y = gradfuse.batch_norm(x, *norm.arrays, norm.eps, axis=axis, activation=activation)
        return gradfuse.bias_act_forward(y, axis=axis, **dropout)[0] if dropout else y

    def backward(self, grad: Array) -> Array:
        order, context = self._take()
        grad = in_order(grad, order)
        if self.norm is None:
            dx, dbias = gradfuse.bias_act_backward(grad, context)
            if self.linear and self.linear.bias and not self.linear.frozen:
                self.linear.bias.add_grad(dbias)
        else:
            dx, dweight, dbias = gradfuse.batch_norm_backward(grad, context)
            self.norm.add_grads(dweight, dbias)
        return as_given(dx, order)


def in_memory_order(x: Array, axis: int) -> tuple[Array, int, tuple[int, ...] | None]:
    """x with its axes as they lie in memory, outermost first, where `axis` then is, and the order; None where x is so.

    Transposed so, the results of convolutions are contiguous.
    """
    if x.flags.c_contiguous or not -x.ndim <= axis < x.ndim:  # the kernels say that there is no such axis
        return x, axis, None
    order = tuple(sorted(range(x.ndim), key=lambda d: -x.strides[d]))
    return x.transpose(order), order.index(axis % x.ndim), order


def in_order(grad: Array, order: tuple[int, ...] | None) -> Array:
    """The gradient with its axes as in_memory_order left those of x."""
    return grad if order is None else grad.transpose(order)


def as_given(y: Array, order: tuple[int, ...] | None) -> Array:
    """Undoes the transposition of in_memory_order."""
    return y if order is None else y.transpose(sorted(range(y.ndim), key=order.__getitem__))
