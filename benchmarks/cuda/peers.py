"""How others compute on a GPU, beyond benchmarks/peers.py: CuPy's kernels, and what torch.compile is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# CuPy's ElementwiseKernel, forward: y of x; backward: dx of dy and s, the array that gradfuse's forward saves.
CUPY_FORWARD = {
    "relu": "y = x < 0 ? 0.0f : x",
    "gelu": "y = 0.5f * x * (1 + erff(x * 0.70710678f))",
    "gelu_tanh": "y = 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)))",
    "silu": "y = x / (1 + expf(-x))",
    "softplus": "y = x > 20 ? x : log1pf(expf(x))",
    "elu": "y = x > 0 ? x : expm1f(x)",
    "tanh": "y = tanhf(x)",
    "sigmoid": "y = 1 / (1 + expf(-x))",
}
CUPY_BACKWARD = {
    "relu": "dx = s > 0 ? dy : 0.0f",
    "gelu": "dx = dy * (0.5f * (1 + erff(s * 0.70710678f)) + s * 0.39894228f * expf(-0.5f * s * s))",
    "gelu_tanh": """
        const float t = tanhf(0.79788456f * (s + 0.044715f * s * s * s));
        dx = dy * 0.5f * (1 + t + s * (1 - t * t) * 0.79788456f * (1 + 0.134145f * s * s))""",
    "silu": "const float p = 1 / (1 + expf(-s)); dx = dy * p * (1 + s * (1 - p))",
    "softplus": "dx = s > 20 ? dy : dy / (1 + expf(-s))",
    "elu": "dx = s > 0 ? dy : dy * expf(s)",
    "tanh": "dx = dy * (1 - s * s)",
    "sigmoid": "dx = dy * s * (1 - s)",
}
CUPY_ADAM = """
    m += (1 - 0.9f) * (g - m);
    v += (1 - 0.999f) * (g * g - v);
    p -= rate * m / (sqrtf(v) * scale + 1e-8f)"""


def cupy_fuse(cupy: Any) -> dict[str, Callable[[Any], Any]]:
    """Activations in CuPy's functions, to be fused."""
    return {
        "relu": lambda x: cupy.maximum(x, 0),
        "silu": lambda x: x / (1 + cupy.exp(-x)),
        "gelu_tanh": lambda x: 0.5 * x * (1 + cupy.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
        "softplus": lambda x: cupy.logaddexp(x, 0),
        "elu": lambda x: cupy.where(x > 0, x, cupy.expm1(x)),
        "tanh": lambda x: cupy.tanh(x),
        "sigmoid": lambda x: 1 / (1 + cupy.exp(-x)),
    }


def cupy_adam(cupy: Any, params: list[Any], grads: list[Any]) -> Callable[[], object]:
    """A step of Adam by an ElementwiseKernel for each array."""
    kernel = cupy.ElementwiseKernel(
        "float32 g, float32 rate, float32 scale", "float32 p, float32 m, float32 v", CUPY_ADAM, "adam"
    )
    state = [(cupy.zeros_like(p), cupy.zeros_like(p)) for p in params]
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        rate, scale = 1e-3 / (1 - 0.9**t), (1 - 0.999**t) ** -0.5
        for p, g, (m, v) in zip(params, grads, state, strict=True):
            kernel(g, rate, scale, p, m, v)

    return step


def ceilings(cupy: Any, torch: Any) -> dict[str, dict[str, tuple[str, Callable[..., Any]]]]:
    """What no kernel can beat: by whom (and by whose means) memory is read, copied, and two arrays made into one."""
    vector = "const float4* const {0}4 = reinterpret_cast<const float4*>(&{0}[0]); "
    a, b = vector.format("a"), vector.format("b")
    to = "float4* const c4 = reinterpret_cast<float4*>(&c[0]); "

    def wide(inputs: str, body: str, name: str) -> Callable[..., Any]:  # 16 bytes at a time, two of them by a thread
        each = "for (int k = 0; k < 2; ++k) { const ptrdiff_t at = i + k * _ind.size(); " + body + " }"
        declared = ", ".join(f"raw float32 {x}" for x in inputs)
        pointers = {"a": a, "ab": a + b}[inputs] + to
        kernel = cupy.ElementwiseKernel(declared, "raw float32 c", pointers + each, name)
        return lambda *arrays: kernel(*arrays, size=arrays[0].size // 8)

    add = "const float4 x = a4[at], y = b4[at]; c4[at] = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);"
    read = "const float4 x = a4[at]; if (x.x + x.y + x.z + x.w == 1.2345e30f) c4[0] = x;"
    simple = cupy.ElementwiseKernel("float32 a", "float32 c", "c = a", "copy_each")
    simple_add = cupy.ElementwiseKernel("float32 a, float32 b", "float32 c", "c = a + b", "add_each")
    table: dict[str, dict[str, tuple[str, Callable[..., Any]]]] = {
        "read": {"cupy, 16 bytes": ("cupy", wide("a", read, "read_wide"))},
        "copy": {
            "cupy, 16 bytes": ("cupy", wide("a", "c4[at] = a4[at];", "copy_wide")),
            "cupy kernel": ("cupy", simple),
        },
        "add": {"cupy, 16 bytes": ("cupy", wide("ab", add, "add_wide")), "cupy kernel": ("cupy", simple_add)},
    }
    if torch:
        table["read"]["torch"] = ("torch", lambda a, c: torch.sum(a))
        table["copy"]["torch"] = ("torch", lambda a, c: c.copy_(a))
        table["add"]["torch"] = ("torch", lambda a, b, c: torch.add(a, b, out=c))
    return table


# What torch.compile is given. Compiling takes seconds: of the activations those alone that may gain by it.


def compiled_forward(torch: Any) -> dict[str, Callable[[Any], Any]]:
    f = torch.nn.functional
    return {"gelu": lambda x: f.gelu(x), "softplus": lambda x: f.softplus(x), "elu": lambda x: f.elu(x)}


def compiled_backward(torch: Any) -> dict[str, Callable[[Any, Any], Any]]:
    a = torch.ops.aten
    return {
        "gelu": lambda dy, s: a.gelu_backward(dy, s),
        "softplus": lambda dy, s: a.softplus_backward(dy, s, 1.0, 20.0),
        "elu": lambda dy, s: a.elu_backward(dy, 1.0, 1.0, 1.0, False, s),
    }


def torch_cross_entropy(torch: Any) -> Callable[[Any, Any], Any]:
    """The loss and its gradient, for torch.compile."""

    def run(x: Any, labels: Any) -> Any:
        logs = torch.log_softmax(x.float(), 1)
        loss = torch.nn.functional.nll_loss(logs, labels)
        hot = torch.arange(x.shape[1], device=x.device) == labels[:, None]
        return loss, ((logs.exp() - hot.float()) / x.shape[0]).to(x.dtype)

    return run


def torch_batch_norm(torch: Any, fused: bool) -> Callable[..., Any]:
    """Batch normalization in training; fused: with relu and dropout of one half."""
    f = torch.nn.functional

    def run(x: Any, mean: Any, var: Any, weight: Any, bias: Any) -> Any:
        y = f.batch_norm(x, mean, var, weight, bias, training=True)
        return f.dropout(f.relu(y), 0.5, training=True) if fused else y

    return run


def torch_batch_norm_backward(torch: Any, fused: bool) -> Callable[..., Any]:
    """Its gradients by PyTorch's kernels; fused: from the mask of what was kept, and relu's result."""
    a = torch.ops.aten

    def run(dy: Any, x: Any, weight: Any, mean: Any, invstd: Any, mask: Any = None, y: Any = None) -> Any:
        if fused:
            dy = a.threshold_backward(a.native_dropout_backward(dy, mask, 2.0), y, 0)
        return a.native_batch_norm_backward(dy, x, weight, None, None, mean, invstd, True, 1e-5, [True, True, True])

    return run


def torch_batch_norm_with(torch: Any, activation: str | None = None, axis: int = 1) -> Callable[..., Any]:
    """Batch normalization in training along any axis, then an activation."""
    f = torch.nn.functional

    def run(x: Any, weight: Any, bias: Any) -> Any:
        y = f.batch_norm(x.movedim(axis, 1), None, None, weight, bias, training=True).movedim(1, axis)
        return getattr(f, activation)(y) if activation else y

    return run


def torch_batch_norm_columns_backward(torch: Any) -> Callable[..., Any]:
    backward = torch_batch_norm_backward(torch, False)

    def run(dy: Any, x: Any, weight: Any, mean: Any, invstd: Any) -> Any:
        dx, *others = backward(dy.movedim(-1, 1), x.movedim(-1, 1), weight, mean, invstd)
        return dx.movedim(1, -1), *others

    return run


def torch_row_norm(torch: Any, name: str) -> Callable[..., Any]:
    """Layer norm or RMS norm over the last axis."""
    function = getattr(torch.nn.functional, name)
    return lambda x, *vectors: function(x, x.shape[-1:], *vectors)


def torch_gradients(torch: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The gradients of a function by autograd, with its forward."""

    def run(dy: Any, *arguments: Any) -> Any:
        leaves = [a.detach().requires_grad_() for a in arguments]
        return torch.autograd.grad(function(*leaves), leaves, dy)

    return run


def formula_batch_norm_backward(torch: Any, fused: bool) -> Callable[..., Any]:
    """The same by the formula, for torch.compile."""

    def run(dy: Any, x: Any, weight: Any, mean: Any, invstd: Any, mask: Any = None, y: Any = None) -> Any:
        shape = (1, -1, 1, 1)
        g = dy.float()
        if fused:
            g = g * mask * 2.0 * (y > 0)
        xhat = (x.float() - mean.view(shape)) * invstd.view(shape)
        dbias, dweight = g.sum((0, 2, 3)), (g * xhat).sum((0, 2, 3))
        n = x.numel() // x.shape[1]
        dx = (weight.float() * invstd).view(shape) * (g - (dbias.view(shape) + xhat * dweight.view(shape)) / n)
        return dx.to(x.dtype), dweight, dbias

    return run


def _mse_loss(pred: Any, target: Any) -> Any:
    d = pred.float() - target.float()
    return (d * d).mean(), (d * (2 / d.numel())).to(pred.dtype)


# A loss with its gradient, for torch.compile.
COMPILED_LOSSES: dict[str, Callable[[Any, Any], Any]] = {"mse_loss": _mse_loss}
