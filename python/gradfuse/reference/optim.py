"""Optimizers, one parameter at a time.

The symbols are PyTorch's: p the parameter, g its gradient, s its state, h the hyper-parameters of its
group. t counts the optimizer's steps from 1, and is the same for all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ._float64 import Array, Float64, narrow, wide
from .gradients import clip_factor, total_norm

Rate = float | Callable[[int], float]
State = dict[str, Float64]


class Optimizer:
    """What surrounds an update: clip, maximize, weight decay, and rounding to the parameter's dtype."""

    def __init__(
        self,
        params: Sequence[Any],
        hyper: dict[str, Any],
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
    ) -> None:
        hyper = {**hyper, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        groups = params if len(params) and isinstance(params[0], dict) else [{"params": params}]
        self.groups = [SimpleNamespace(**{**hyper, **group}) for group in groups]
        self.max_grad_norm, self.nonfinite = max_grad_norm, nonfinite
        self.last_grad_norm: float | None = None
        self.t = 0
        self.state: list[State] = [
            {name: np.full(p.shape, value, np.float64) for name, value in self.slots(h).items()}
            for p, h in self._params()
        ]
        self._masters = [wide(p) if master_weights and p.dtype.itemsize == 2 else None for p, _ in self._params()]

    def slots(self, h: Any) -> dict[str, float]:
        """The names of the state's arrays, and what they are filled with at first."""
        raise NotImplementedError

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        """One step of `p` and `s`, in place."""
        raise NotImplementedError

    @np.errstate(all="ignore")
    def step(self, grads: Sequence[Array | None], *, grad_scale: float = 1.0) -> None:
        """`grads` in the order of the parameters, times grad_scale; None skips that one."""
        factor = 1.0
        grads = [g if g is None else grad_scale * wide(g) for g in grads]
        if self.max_grad_norm is not None or self.nonfinite != "propagate":
            norm = self.last_grad_norm = total_norm([g for g in grads if g is not None])
            max_norm = math.inf if self.max_grad_norm is None else self.max_grad_norm
            factor = clip_factor(norm, max_norm, self.nonfinite)
            if self.nonfinite == "skip" and not math.isfinite(norm):
                return

        self.t += 1
        for i, (param, h) in enumerate(self._params()):
            gradient, master = grads[i], self._masters[i]
            if gradient is None:
                continue
            lr = self._rate(h, self.t)
            p = wide(param) if master is None else master
            g = factor * wide(gradient)
            if h.maximize:
                g = -g
            if h.weight_decay != 0 and h.decoupled_weight_decay:
                p *= 1 - lr * h.weight_decay
            elif h.weight_decay != 0:
                g = g + h.weight_decay * p
            self.update(p, g, self.state[i], h, lr, self.t)
            narrow(p, param.dtype, out=param)

    @property
    def lr(self) -> float:
        """The rate of the next step, in the first group; setting it sets all groups."""
        return self._rate(self.groups[0], self.t + 1)

    @lr.setter
    def lr(self, lr: Rate) -> None:
        for h in self.groups:
            h.lr = lr

    @staticmethod
    def _rate(h: Any, t: int) -> float:
        return float(h.lr(t - 1)) if callable(h.lr) else float(h.lr)

    def _params(self) -> list[tuple[Array, Any]]:
        return [(p, h) for h in self.groups for p in h.params]


class SGD(Optimizer):
    """Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        lr_in_momentum: bool = False,
        **common: Any,
    ) -> None:
        hyper = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**hyper, "nesterov": nesterov, "lr_in_momentum": lr_in_momentum}, **common)

    def slots(self, h: Any) -> dict[str, float]:
        return {} if h.momentum == 0 else {"momentum_buffer": 0.0}

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        if h.lr_in_momentum:  # Keras: a later change of the rate does not rescale the buffer
            g, lr = lr * g, 1.0
        if h.momentum != 0:
            b = g if t == 1 else h.momentum * s["momentum_buffer"] + (1 - h.dampening) * g
            s["momentum_buffer"] = b
            g = g + h.momentum * b if h.nesterov else b
        p -= lr * g


class Adagrad(Optimizer):
    """Duchi et al., Adaptive Subgradient Methods, JMLR 2011."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **common: Any,
    ) -> None:
        hyper = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**hyper, "initial_accumulator_value": initial_accumulator_value}, **common)

    def slots(self, h: Any) -> dict[str, float]:
        return {"sum": h.initial_accumulator_value}

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        s["sum"] = s["sum"] + g**2
        p -= lr / (1 + (t - 1) * h.lr_decay) * g / (np.sqrt(s["sum"]) + h.eps)


class RMSprop(Optimizer):
    """Tieleman and Hinton, Lecture 6.5, 2012; centered: Graves, arXiv:1308.0850."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **common: Any,
    ) -> None:
        hyper = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**hyper, "momentum": momentum, "centered": centered}, **common)

    def slots(self, h: Any) -> dict[str, float]:
        names = ["square_avg"] + ["grad_avg"] * h.centered + ["momentum_buffer"] * (h.momentum != 0)
        return dict.fromkeys(names, 0.0)

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        v = s["square_avg"] = h.alpha * s["square_avg"] + (1 - h.alpha) * g**2
        if h.centered:
            m = s["grad_avg"] = h.alpha * s["grad_avg"] + (1 - h.alpha) * g
            v = np.maximum(v - m**2, 0)
        d = g / (np.sqrt(v) + h.eps)
        if h.momentum != 0:
            d = s["momentum_buffer"] = h.momentum * s["momentum_buffer"] + d
        p -= lr * d


class Adam(Optimizer):
    """Kingma and Ba, arXiv:1412.6980; amsgrad: Reddi et al., arXiv:1904.09237."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **common: Any,
    ) -> None:
        hyper = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, hyper, **common)

    def slots(self, h: Any) -> dict[str, float]:
        return dict.fromkeys(["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * h.amsgrad, 0.0)

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        m, v = _moments(s, g, h.betas)
        if h.amsgrad:
            v = s["max_exp_avg_sq"] = np.maximum(s["max_exp_avg_sq"], v)
        beta1, beta2 = h.betas
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        p -= lr * m_hat / (np.sqrt(v_hat) + h.eps)


class AdamW(Adam):
    """Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = True,
        **common: Any,
    ) -> None:
        common["decoupled_weight_decay"] = decoupled_weight_decay
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **common)


class NAdam(Optimizer):
    """Dozat, Incorporating Nesterov Momentum into Adam, 2016."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        **common: Any,
    ) -> None:
        hyper = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
        }
        super().__init__(params, hyper, **common)

    def slots(self, h: Any) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        beta1, beta2 = h.betas
        mu = [beta1 * (1 - 0.5 * 0.96 ** (k * h.momentum_decay)) for k in range(1, t + 2)]
        m, v = _moments(s, g, h.betas)
        m_hat = mu[t] * m / (1 - math.prod(mu)) + (1 - mu[t - 1]) * g / (1 - math.prod(mu[:t]))
        v_hat = v / (1 - beta2**t)
        p -= lr * m_hat / (np.sqrt(v_hat) + h.eps)


class Adamax(Optimizer):
    """Kingma and Ba, arXiv:1412.6980, section 7.1."""

    def __init__(
        self,
        params: Sequence[Any],
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **common)

    def slots(self, h: Any) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    def update(self, p: Float64, g: Float64, s: State, h: Any, lr: float, t: int) -> None:
        beta1, beta2 = h.betas
        m = s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
        u = s["exp_inf"] = np.maximum(beta2 * s["exp_inf"], abs(g) + h.eps)
        p -= lr / (1 - beta1**t) * m / u


def _moments(s: State, g: Float64, betas: tuple[float, float]) -> tuple[Float64, Float64]:
    beta1, beta2 = betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    return s["exp_avg"], s["exp_avg_sq"]


# What `import *` takes: every optimizer above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, c in list(globals().items()) if isinstance(c, type) and Optimizer in c.__mro__[1:]
]
