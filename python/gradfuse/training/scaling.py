"""Loss scaling, so that gradients of half-precision models neither vanish nor overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradfuse._arrays import Array, is_half
from gradfuse._checks import Bounds, number
from gradfuse.nn.losses import Loss

GROWTH_INTERVAL = 2000
SCALE: Bounds = "'dynamic', None or a finite number > 0", lambda x: 0 < x < math.inf


class LossScale:
    """A factor on the loss that the optimizer's step takes out again.

    None is 1. "dynamic" begins at 65536, halves where gradients are not finite (the optimizer has then skipped the
    step), never below 1, and doubles after 2000 steps in which they were.
    Source: Micikevicius et al. 2018; torch.amp.GradScaler.
    """

    def __init__(self, scale: float | str | None) -> None:
        if scale is not None and scale != "dynamic":
            scale = number("fit: loss_scale", scale, SCALE)
        self.given, self.dynamic = scale, scale == "dynamic"
        self.value = 65536.0 if self.dynamic else float(scale or 1)
        self.steps = 0  # since the scale has changed

    def gradient(self, loss: Loss, prediction: Array, target: Any) -> tuple[Array, Array]:
        """The loss, and the gradient of the scaled loss.

        Where there is a scale, the loss of half types and its gradient are computed in float32 and rounded when they
        have been scaled: before that they could be 0 already.
        """
        if self.given is None:
            return loss(prediction, target)
        value, grad = loss(_in_float32(prediction), _in_float32(target))
        return value, (grad * self.value).astype(prediction.dtype)

    def update(self, norm: Any) -> None:
        """After a step whose gradients had this norm."""
        if not self.dynamic:
            return
        self.steps += 1
        if not math.isfinite(float(norm)):
            self.value, self.steps = max(1.0, self.value / 2), 0
        elif self.steps == GROWTH_INTERVAL:
            self.value, self.steps = self.value * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """What was given, the scale and its age."""
        return {"given": self.given, "value": self.value, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on what state_dict() returned. ValueError where another scale was given."""
        if state["given"] != self.given:
            raise ValueError(f"fit: loss_scale must be {state['given']!r}, as in the checkpoint, got {self.given!r}")
        self.value, self.steps = float(state["value"]), int(state["steps"])


def _in_float32(x: Any) -> Any:
    return x.astype(np.float32) if is_half(x) else x
