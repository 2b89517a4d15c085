"""Loss scaling, so that gradients of half-precision models neither vanish nor overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from smelt._arrays import Array, is_half
from smelt._checks import POSITIVE, number
from smelt.nn.losses import Loss

GROWTH_INTERVAL = 2000


class LossScale:
    """A factor on the loss that the optimizer's step takes out again.

    None is 1. "dynamic" begins at 65536, halves where gradients are not finite (the optimizer has then skipped the
    step) and doubles after 2000 steps in which they were. Source: Micikevicius et al. 2018; torch.amp.GradScaler.
    """

    def __init__(self, scale: float | str | None) -> None:
        self.given, self.dynamic = scale is not None, scale == "dynamic"
        self.value = 65536.0 if self.dynamic else 1.0 if scale is None else number("fit: loss_scale", scale, POSITIVE)
        self.steps = 0  # since the scale has changed

    def gradient(self, loss: Loss, prediction: Array, target: Any) -> tuple[Array, Array]:
        """The loss, and the gradient of the scaled loss.

        Where there is a scale, the loss of half types and its gradient are computed in float32 and rounded when they
        have been scaled: before that they could be 0 already.
        """
        if not self.given:
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

    def state_dict(self) -> dict[str, float]:
        """Whether it is dynamic, the scale and its age."""
        return {"dynamic": self.dynamic, "value": self.value, "steps": self.steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes on what state_dict() returned. ValueError where only one of the two is dynamic."""
        if state["dynamic"] != self.dynamic:
            kinds = [repr("dynamic") if dynamic else "a number or None" for dynamic in (state["dynamic"], self.dynamic)]
            raise ValueError(f"fit: loss_scale must be {kinds[0]}, as in the checkpoint, got {kinds[1]}")
        self.value, self.steps = float(state["value"]), int(state["steps"])


def _in_float32(x: Any) -> Any:
    return x.astype(np.float32) if is_half(x) else x
