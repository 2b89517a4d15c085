"""An array that is learned."""

from __future__ import annotations

from gradfuse._arrays import Array


class Parameter:
    """An array that is learned and the gradient of the loss with respect to it, None where there is none.

    Optimizers take parameters in place of arrays, and their step() without arguments takes the gradients.
    """

    __slots__ = ("data", "grad")

    def __init__(self, data: Array) -> None:
        self.data = data
        self.grad: Array | None = None

    def add_grad(self, grad: Array) -> None:
        """Adds to the gradient, in place where there is one."""
        if self.grad is None:
            self.grad = grad
        else:
            self.grad += grad

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def __repr__(self) -> str:
        return f"Parameter({self.data.dtype}, shape {self.shape})"
