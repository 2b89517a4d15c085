"""Generated from the compiled module by `make stubs`; do not edit."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Schedule = Callable[[int], float]

class Optimizer:
    groups: list[dict[str, Any]]
    params: tuple[Any, ...]
    state: list[dict[str, Any]]
    last_grad_norm: Any
    max_grad_norm: float | None
    nonfinite: str
    master_weights: bool
    capturable: bool
    @property
    def t(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @lr.setter
    def lr(self, value: float | Schedule) -> None: ...
    def refresh(self) -> None: ...
    def refresh_master_weights(self) -> None: ...
    def step(self, grads: Sequence[Any] | None = None, *, grad_scale: float = 1.0) -> None: ...
    def zero_grad(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

class SGD(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.001,
        momentum: float | Schedule = 0.0,
        dampening: float | Schedule = 0.0,
        weight_decay: float | Schedule = 0.0,
        nesterov: bool = False,
        *,
        lr_in_momentum: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class Adagrad(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.01,
        lr_decay: float | Schedule = 0.0,
        weight_decay: float | Schedule = 0.0,
        initial_accumulator_value: float | Schedule = 0.0,
        eps: float | Schedule = 1e-10,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.01,
        alpha: float | Schedule = 0.99,
        eps: float | Schedule = 1e-08,
        weight_decay: float | Schedule = 0.0,
        momentum: float | Schedule = 0.0,
        centered: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] | Callable[[int], tuple[float, float]] = (0.9, 0.999),
        eps: float | Schedule = 1e-08,
        weight_decay: float | Schedule = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] | Callable[[int], tuple[float, float]] = (0.9, 0.999),
        eps: float | Schedule = 1e-08,
        weight_decay: float | Schedule = 0.01,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = True,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class NAdam(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.002,
        betas: tuple[float, float] | Callable[[int], tuple[float, float]] = (0.9, 0.999),
        eps: float | Schedule = 1e-08,
        weight_decay: float | Schedule = 0.0,
        momentum_decay: float | Schedule = 0.004,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...

class Adamax(Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 0.002,
        betas: tuple[float, float] | Callable[[int], tuple[float, float]] = (0.9, 0.999),
        eps: float | Schedule = 1e-08,
        weight_decay: float | Schedule = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: str = "propagate",
        master_weights: bool = False,
        capturable: bool = False,
    ) -> None: ...
