"""Generated from the compiled module by `make stubs`; do not edit."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = [
    "Generator",
    "relu",
    "relu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "elu",
    "elu_backward",
    "celu",
    "celu_backward",
    "selu",
    "selu_backward",
    "softplus",
    "softplus_backward",
    "silu",
    "silu_backward",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "mish",
    "mish_backward",
    "sigmoid",
    "sigmoid_backward",
    "tanh",
    "tanh_backward",
    "logsigmoid",
    "logsigmoid_backward",
    "softsign",
    "softsign_backward",
    "relu6",
    "relu6_backward",
    "hardtanh",
    "hardtanh_backward",
    "hardsigmoid",
    "hardsigmoid_backward",
    "hardswish",
    "hardswish_backward",
    "activations",
    "saves",
    "gated",
    "gated_backward",
    "glu_forward",
    "glu_backward",
    "dropout_forward",
    "dropout_backward",
    "alpha_dropout_forward",
    "alpha_dropout_backward",
    "rrelu_forward",
    "rrelu_backward",
    "prelu_forward",
    "prelu_backward",
    "maxout_forward",
    "maxout_backward",
    "softmax",
    "softmax_backward",
    "log_softmax",
    "log_softmax_backward",
    "cross_entropy",
    "mse_loss",
    "layer_norm",
    "layer_norm_forward",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_forward",
    "rms_norm_backward",
    "group_norm",
    "group_norm_forward",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_forward",
    "instance_norm_backward",
    "batch_norm",
    "batch_norm_forward",
    "batch_norm_backward",
    "batch_moments",
    "merge_moments",
    "batch_norm_apply",
    "batch_norm_sums",
    "batch_norm_finish",
    "bias_act_forward",
    "bias_act_backward",
    "fold_batch_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "max_norm_",
    "set_num_threads",
    "get_num_threads",
]

Array = TypeVar("Array")

signatures: dict[str, str]

class Generator:
    def __init__(self, seed: int, capturable: bool = False) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def stream(self) -> int: ...
    @property
    def capturable(self) -> bool: ...
    def state_dict(self) -> dict[str, int]: ...
    def load_state_dict(self, state: dict[str, int]) -> None: ...

class Plan:
    clocks: list[tuple[int, float]]
    @property
    def t(self) -> int: ...
    @property
    def state(self) -> list[dict[str, Any]]: ...
    def __init__(
        self,
        row: int,
        parameters: list[Any],
        group_sizes: list[int],
        values: list[Any],
        master_weights: bool,
        capturable: bool,
    ) -> None: ...
    def exclusively(self, f: Callable[..., Any], *arguments: Any) -> Any: ...
    def refresh_master_weights(self) -> None: ...
    def set_groups(self, groups: list[Any]) -> None: ...
    def step(
        self, grads: Sequence[Any], groups: list[Any], max_grad_norm: float | None, nonfinite: str, grad_scale: float
    ) -> Any: ...

def activation_info(name: str) -> dict[str, Any]: ...
def activations() -> list[str]: ...
def add_windows(
    images: Array,
    windows: Array,
    first_row: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None: ...
def alpha_dropout_backward(grad_out: Array, ctx: Any) -> Array: ...
def alpha_dropout_forward(x: Array, p: float = 0.5, *, rng: Generator | int | None = None) -> tuple[Array, Any]: ...
def batch_moments(x: Array, *, axis: int = 1) -> Array: ...
def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-05,
    *,
    axis: int = 1,
    activation: str | tuple[str, dict[str, float]] | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array: ...
def batch_norm_apply(
    x: Array,
    moments: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-05,
    *,
    axis: int = 1,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    unbiased: bool = True,
    num_batches: int | None = None,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def batch_norm_backward(grad_out: Array, ctx: Any) -> tuple[Any, ...]: ...
def batch_norm_finish(grad_out: Array, ctx: Any, sums: Array) -> tuple[Any, ...]: ...
def batch_norm_forward(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-05,
    *,
    axis: int = 1,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    order: str = "bn_act",
    unbiased: bool = True,
    frozen: bool = False,
    num_batches: int | None = None,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def batch_norm_sums(grad_out: Array, ctx: Any) -> Array: ...
def bias_act_backward(grad_out: Array, ctx: Any) -> tuple[Any, ...]: ...
def bias_act_forward(
    x: Array,
    bias: Array | None = None,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    *,
    axis: int = -1,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def build_info() -> dict[str, str]: ...
def celu(x: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array: ...
def celu_backward(grad_out: Array, saved: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array: ...
def clip_grad_norm_(
    grads: Sequence[Any], max_norm: float, nonfinite: str = "propagate", *, per_array: bool = False
) -> Any: ...
def clip_grad_value_(grads: Sequence[Any], value: float) -> None: ...
def copy_elements(x: Array, to: Array) -> None: ...
def cross_entropy(
    logits: Array,
    target: Any,
    *,
    axis: int = 1,
    weight: Array | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> tuple[Array, Array]: ...
def dropout_backward(grad_out: Array, ctx: Any) -> Array: ...
def dropout_forward(x: Array, p: float = 0.5, *, rng: Generator | int | None = None) -> tuple[Array, Any]: ...
def elu(x: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array: ...
def elu_backward(grad_out: Array, saved: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array: ...
def fold_batch_norm(
    W: Array,
    b: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-05,
    *,
    axis: int = -1,
) -> tuple[Array, Array]: ...
def gated(
    a: Array, gate: Array, activation: str | tuple[str, dict[str, float]] | None = "silu", *, out: Array | None = None
) -> Array: ...
def gated_backward(
    grad_out: Array, a: Array, gate: Array, activation: str | tuple[str, dict[str, float]] | None = "silu"
) -> tuple[Array, Array]: ...
def gather_windows(
    images: Array,
    windows: Array,
    first_row: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    fill: float = 0.0,
) -> None: ...
def gelu(x: Array, *, out: Array | None = None) -> Array: ...
def gelu_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def gelu_tanh(x: Array, *, out: Array | None = None) -> Array: ...
def gelu_tanh_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def get_num_threads() -> int: ...
def glu_backward(grad_out: Array, ctx: Any) -> Array: ...
def glu_forward(
    x: Array, activation: str | tuple[str, dict[str, float]] | None = "sigmoid", *, axis: int = -1
) -> tuple[Array, Any]: ...
def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-05,
    activation: str | tuple[str, dict[str, float]] | None = None,
    out: Array | None = None,
) -> Array: ...
def group_norm_backward(grad_out: Array, ctx: Any) -> tuple[Array, Any, Any]: ...
def group_norm_forward(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-05,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def hardsigmoid(x: Array, *, out: Array | None = None) -> Array: ...
def hardsigmoid_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def hardswish(x: Array, *, out: Array | None = None) -> Array: ...
def hardswish_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def hardtanh(x: Array, min_val: float = -1.0, max_val: float = 1.0, *, out: Array | None = None) -> Array: ...
def hardtanh_backward(
    grad_out: Array, saved: Array, min_val: float = -1.0, max_val: float = 1.0, *, out: Array | None = None
) -> Array: ...
def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-05,
    activation: str | tuple[str, dict[str, float]] | None = None,
    out: Array | None = None,
) -> Array: ...
def instance_norm_backward(grad_out: Array, ctx: Any) -> tuple[Array, Any, Any]: ...
def instance_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-05,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-05,
    add: Array | None = None,
    activation: str | tuple[str, dict[str, float]] | None = None,
    out: Array | None = None,
) -> Any: ...
def layer_norm_backward(grad_out: Array, ctx: Any, grad_total: Array | None = None) -> tuple[Array, Any, Any]: ...
def layer_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-05,
    add: Array | None = None,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    rng: Generator | int | None = None,
) -> tuple[Any, ...]: ...
def leaky_relu(x: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array: ...
def leaky_relu_backward(
    grad_out: Array, saved: Array, negative_slope: float = 0.01, *, out: Array | None = None
) -> Array: ...
def log_softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array: ...
def log_softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array: ...
def logsigmoid(x: Array, *, out: Array | None = None) -> Array: ...
def logsigmoid_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def losses() -> list[dict[str, Any]]: ...
def max_norm_(W: Array, r: float, *, axis: int | tuple[int, ...] = 0) -> None: ...
def maxout_backward(grad_out: Array, ctx: Any) -> Array: ...
def maxout_forward(x: Array, num_pieces: int, *, axis: int = 1) -> tuple[Array, Any]: ...
def merge_moments(moments: Sequence[Array]) -> Array: ...
def mish(x: Array, *, out: Array | None = None) -> Array: ...
def mish_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def mse_loss(pred: Array, target: Array, *, reduction: str = "mean") -> tuple[Array, Array]: ...
def norm_info(name: str) -> dict[str, Any]: ...
def norms() -> list[str]: ...
def optimizer_list() -> list[dict[str, Any]]: ...
def optimizer_slots(row: int, values: tuple[float, ...]) -> int: ...
def prelu_backward(grad_out: Array, ctx: Any) -> tuple[Array, Array]: ...
def prelu_forward(x: Array, weight: Array, *, axis: int = 1) -> tuple[Array, Any]: ...
def relu(x: Array, *, out: Array | None = None) -> Array: ...
def relu6(x: Array, *, out: Array | None = None) -> Array: ...
def relu6_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def relu_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float | None = None,
    unit_offset: bool = False,
    add: Array | None = None,
    activation: str | tuple[str, dict[str, float]] | None = None,
    out: Array | None = None,
) -> Any: ...
def rms_norm_backward(grad_out: Array, ctx: Any, grad_total: Array | None = None) -> tuple[Array, Any]: ...
def rms_norm_forward(
    x: Array,
    weight: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float | None = None,
    unit_offset: bool = False,
    add: Array | None = None,
    activation: str | tuple[str, dict[str, float]] | None = None,
    dropout: float = 0.0,
    rng: Generator | int | None = None,
) -> tuple[Any, ...]: ...
def row_info(name: str) -> dict[str, Any]: ...
def row_operations() -> list[str]: ...
def rrelu_backward(grad_out: Array, ctx: Any) -> Array: ...
def rrelu_forward(
    x: Array,
    lower: float = 0.125,
    upper: float = 0.3333333333333333,
    *,
    training: bool = True,
    rng: Generator | int | None = None,
) -> tuple[Array, Any]: ...
def saves(name: str) -> str: ...
def selu(x: Array, *, out: Array | None = None) -> Array: ...
def selu_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def set_num_threads(n: int) -> None: ...
def sigmoid(x: Array, *, out: Array | None = None) -> Array: ...
def sigmoid_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def silu(x: Array, beta: float = 1.0, *, out: Array | None = None) -> Array: ...
def silu_backward(grad_out: Array, saved: Array, beta: float = 1.0, *, out: Array | None = None) -> Array: ...
def softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array: ...
def softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array: ...
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None) -> Array: ...
def softplus_backward(
    grad_out: Array, saved: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None
) -> Array: ...
def softsign(x: Array, *, out: Array | None = None) -> Array: ...
def softsign_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
def tanh(x: Array, *, out: Array | None = None) -> Array: ...
def tanh_backward(grad_out: Array, saved: Array, *, out: Array | None = None) -> Array: ...
