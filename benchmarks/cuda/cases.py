"""What is measured on a GPU: each case makes its data and asks every library in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradfuse
from benchmarks import peers
from benchmarks.cases import optimizer_bytes
from benchmarks.cuda import peers as cuda_peers
from benchmarks.cuda.arrays import Memory, as_torch, is_torch, jax_on_gpu, poisoned, torch_on_gpu, triton_peer
from benchmarks.cuda.timing import Contender, error_text
from gradfuse import _core

ITEMSIZE = {"float32": 4, "bfloat16": 2}
ELEMENTS = {"float32": 1 << 26, "bfloat16": 1 << 27}  # of large arrays: as many bytes in either
ROWS = ((4096, 1000), (1024, 32768), (1 << 20, 10))  # of softmax
NORMALIZED = ((8192, 4096), (1 << 20, 10))  # rows of layer norm and RMS norm
LOGITS = ((4096, 1000), (8192, 32000))
IMAGES = ((32, 64, 56, 56), (64, 256, 28, 28))
COLUMNS = (
    (64, 28, 28, 256),
    (8192, 4096),
)  # of batch norm along the last axis: images with channels last, a dense layer
PARAMETERS = 1 << 26  # of one tensor
ROTATED = 1 << 28  # bytes that the buffers of a case have together, at least
MAIN_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "softplus", "elu", "tanh", "sigmoid")

Column = list[Any]  # an array for each set of buffers


def _nothing() -> None:
    pass


class Contest:
    """The contenders of a case, on the same data. What cannot take part is noted in `problems`."""

    def __init__(self, memory: Memory, dtype: str, sets: int, clock: str) -> None:
        self.memory, self.dtype, self.sets, self.clock = memory, dtype, sets, clock
        self.contenders: dict[str, Contender] = {}
        self.problems: dict[str, str] = {}
        self.where_kept = False  # zeros fall at random
        self.like: Column = []  # arrays as results may be
        # Everybody's first calls, each between a change of the data and its undoing, all undone in the end. After them
        # the results must agree, less `base` where there is one.
        self.first_calls: list[tuple[Callable[[], None], Callable[[], None]]] = [(_nothing, _nothing)]
        self.base: list[Any] = []

    def column(self, *shape: int, **options: Any) -> Column:
        self.like = [self.memory.random(*shape, dtype=self.dtype, **options) for _ in range(self.sets)]
        return self.like

    def add(self, name: str, make: Callable[[], Contender]) -> None:
        try:
            self.contenders[name] = make()
        except Exception as error:
            self.problems[name] = error_text(error)

    def gradfuse(self, function: Callable[..., Any], *columns: Column, name: str = "gradfuse") -> None:
        """function(a, b ...) of the k-th of each column."""
        library = "torch" if is_torch(columns[0][0]) else "cupy"
        self.add(name, lambda: _contender(library, function, columns))

    def gradfuse_on_torch(self, function: Callable[..., Any], *columns: Column) -> None:
        """The same, given tensors."""
        if torch_on_gpu() and not is_torch(columns[0][0]):
            self.torch("gradfuse, torch tensors", function, *columns)

    def cupy(self, name: str, function: Callable[..., Any], *columns: Column) -> None:
        self.add(name, lambda: _contender("cupy", function, columns))

    def torch(self, name: str, function: Callable[..., Any], *columns: Column) -> None:
        """function of tensors of the same memory."""
        if torch_on_gpu():
            self.add(name, lambda: _contender("torch", function, _tensors(columns)))

    def compiled(self, function: Callable[..., Any], *columns: Column) -> None:
        if torch := torch_on_gpu():
            self.torch("torch.compile", torch.compile(function, dynamic=False, fullgraph=True), *columns)

    def jax(self, function: Callable[..., Any], *columns: Column) -> None:
        jax = jax_on_gpu()
        if not jax or self.dtype != "float32":
            return

        def make() -> Contender:
            arrays = [[jax.dlpack.from_dlpack(a) for a in column] for column in columns]
            return _contender("jax", jax.jit(function), arrays)

        self.add("jax", make)


def _contender(library: str, function: Callable[..., Any], columns: Any) -> Contender:
    def call(k: int) -> list[Any]:
        results = function(*(column[k] for column in columns))
        if isinstance(results, (tuple, list)):
            return [r for r in results if r is not None]
        return [] if results is None else [results]

    return Contender(call, library)


def _tensors(columns: Any) -> list[Column]:
    return [[as_torch(a) for a in column] for column in columns]


def _outputs(like: Column) -> Column:
    """Buffers of a contender's own for its results, poisoned."""
    return [poisoned(a) for a in like]


@dataclass(frozen=True)
class Case:
    """`build` fills a contest; `bytes` are the fewest that one call must move (0: it is not about memory)."""

    name: str
    dtype: str
    shape: str
    bytes: float
    build: Callable[[Contest], None]
    clock: str = "device"
    calls: int = 0  # in a unit; 0: as many as are worth measuring

    @property
    def sets(self) -> int:
        return max(2, math.ceil(ROTATED / self.bytes)) if self.bytes and not self.calls else 1


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


# ---- elementwise


def _activation_forward(name: str, n: int, c: Contest) -> None:
    forward = getattr(_core, name)
    xs = c.column(n, scale=2)
    c.gradfuse(lambda x, y: forward(x, out=y), xs, _outputs(xs))
    if torch := torch_on_gpu():
        if run := peers.torch_forward(torch).get(name):
            c.torch("torch", run, xs, _outputs(xs))
        if function := cuda_peers.compiled_forward(torch).get(name):
            c.compiled(function, xs)
    triton = triton_peer()
    if triton and name in triton.ELEMENTWISE:
        c.torch("triton", partial(triton.elementwise, name), xs, _outputs(xs))
    if c.dtype != "float32":
        return
    import cupy

    if name in cuda_peers.CUPY_FORWARD:
        code = cuda_peers.CUPY_FORWARD[name]
        kernel = cupy.ElementwiseKernel("float32 x", "float32 y", code, f"{name}_forward")
        c.cupy("cupy kernel", kernel, xs, _outputs(xs))
    if function := cuda_peers.cupy_fuse(cupy).get(name):
        c.cupy("cupy.fuse", cupy.fuse(kernel_name=f"fused_{name}")(function), xs)
    if (jax := jax_on_gpu()) and (function := peers.jax_forward(jax).get(name)):
        c.jax(function, xs)


def _activation_backward(name: str, n: int, c: Contest) -> None:
    forward, backward = getattr(_core, name), getattr(_core, name + "_backward")
    dys, saved = c.column(n, shift=1), c.column(n, scale=2)
    if gradfuse.saves(name) == "y":
        saved = [forward(x) for x in saved]
    c.gradfuse(lambda dy, s, dx: backward(dy, s, out=dx), dys, saved, _outputs(dys))
    if torch := torch_on_gpu():
        if run := peers.torch_backward(torch).get(name):
            c.torch("torch", run, dys, saved, _outputs(dys))
        if function := cuda_peers.compiled_backward(torch).get(name):
            c.compiled(function, dys, saved)
    if c.dtype == "float32" and name in cuda_peers.CUPY_BACKWARD:
        import cupy

        code = cuda_peers.CUPY_BACKWARD[name]
        kernel = cupy.ElementwiseKernel("float32 dy, float32 s", "float32 dx", code, f"{name}_backward")
        c.cupy("cupy kernel", kernel, dys, saved, _outputs(dys))


def _dropout(n: int, c: Contest) -> None:
    xs = c.column(n)
    c.where_kept = True
    rng = gradfuse.Generator(1, capturable=True)
    c.gradfuse(lambda x: gradfuse.dropout_forward(x, 0.5, rng=rng)[0], xs)
    if torch := torch_on_gpu():
        f = torch.nn.functional
        c.torch("torch", lambda x: f.dropout(x, 0.5, training=True), xs)
        c.compiled(lambda x: f.dropout(x, 0.5, training=True), xs)


def _dropout_backward(n: int, c: Contest) -> None:
    dys = c.column(n)
    kept = [gradfuse.dropout_forward(dy, 0.5, rng=1) for dy in dys]
    contexts, masks = [ctx for _, ctx in kept], [_nonzero(y) for y, _ in kept]
    c.gradfuse(gradfuse.dropout_backward, dys, contexts)
    if torch := torch_on_gpu():
        backward = torch.ops.aten.native_dropout_backward
        c.torch("torch", lambda dy, mask: backward(dy, mask, 2.0), dys, masks)


def _nonzero(y: Any) -> Any:
    """A mask, as a tensor where there are tensors: what PyTorch's dropout would have saved."""
    return as_torch(y) != 0 if torch_on_gpu() else None


# ---- rows


def _softmax(log: bool, shape: tuple[int, int], c: Contest) -> None:
    forward = gradfuse.log_softmax if log else gradfuse.softmax
    xs = c.column(*shape)
    c.gradfuse(lambda x, y: forward(x, out=y), xs, _outputs(xs))
    if torch := torch_on_gpu():
        op = torch.ops.aten._log_softmax if log else torch.ops.aten._softmax
        c.torch("torch", lambda x, y: op.out(x, 1, False, out=y), xs, _outputs(xs))
        if not log:
            c.compiled(lambda x: torch.softmax(x, 1), xs)
    if (triton := triton_peer()) and not log:
        c.torch("triton", triton.softmax, xs, _outputs(xs))
    if jax := jax_on_gpu():
        c.jax(jax.nn.log_softmax if log else jax.nn.softmax, xs)


def _softmax_backward(log: bool, shape: tuple[int, int], c: Contest) -> None:
    forward, backward = (
        (gradfuse.log_softmax, gradfuse.log_softmax_backward) if log else (gradfuse.softmax, gradfuse.softmax_backward)
    )
    dys, ys = c.column(*shape), [forward(x) for x in c.column(*shape)]
    c.gradfuse(lambda dy, y, dx: backward(dy, y, out=dx), dys, ys, _outputs(dys))
    if torch := torch_on_gpu():
        dtype, a = getattr(torch, c.dtype), torch.ops.aten
        if log:
            op, keyword = a._log_softmax_backward_data.out, "out"
        else:
            op, keyword = a._softmax_backward_data.out, "grad_input"
        c.torch("torch", lambda dy, y, dx: op(dy, y, 1, dtype, **{keyword: dx}), dys, ys, _outputs(dys))
        if not log:
            c.compiled(lambda dy, y: y * (dy - (dy * y).sum(1, keepdim=True)), dys, ys)


def _cross_entropy(shape: tuple[int, int], c: Contest) -> None:
    xs, labels = c.column(*shape), [c.memory.labels(*shape) for _ in range(c.sets)]
    c.gradfuse(gradfuse.cross_entropy, xs, labels)
    if torch := torch_on_gpu():

        def eager(x: Any, target: Any) -> Any:
            leaf = x.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(leaf, target)
            return loss.detach(), *torch.autograd.grad(loss, leaf)

        c.torch("torch", eager, xs, labels)
        c.compiled(cuda_peers.torch_cross_entropy(torch), xs, labels)
    if jax := jax_on_gpu():

        def loss(x: Any, target: Any) -> Any:
            return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), target[:, None], 1).mean()

        c.jax(jax.value_and_grad(loss), xs, [labels.astype("int32") for labels in labels])


def _loss(name: str, n: int, c: Contest) -> None:
    preds, targets = c.column(n), c.column(n)
    c.gradfuse(getattr(gradfuse, name), preds, targets)
    if (torch := torch_on_gpu()) and (function := getattr(torch.nn.functional, name, None)):

        def eager(pred: Any, target: Any) -> Any:
            leaf = pred.detach().requires_grad_()
            loss = function(leaf, target)
            return loss.detach(), *torch.autograd.grad(loss, leaf)

        c.torch("torch", eager, preds, targets)
        if formula := cuda_peers.COMPILED_LOSSES.get(name):
            c.compiled(formula, preds, targets)


def _gated(activation: str, n: int, c: Contest) -> None:
    xs, gates = c.column(n), c.column(n, scale=2)
    c.gradfuse(lambda a, gate, y: gradfuse.gated(a, gate, activation, out=y), xs, gates, _outputs(xs))
    if torch := torch_on_gpu():
        act = getattr(torch.nn.functional, activation)
        c.torch("torch", lambda a, gate: act(gate) * a, xs, gates)
        c.compiled(lambda a, gate: act(gate) * a, xs, gates)


def _gated_backward(activation: str, n: int, c: Contest) -> None:
    dys, xs, gates = c.column(n, shift=1), c.column(n), c.column(n, scale=2)
    c.gradfuse(lambda dy, a, gate: gradfuse.gated_backward(dy, a, gate, activation), dys, xs, gates)
    if torch := torch_on_gpu():
        act = getattr(torch.nn.functional, activation)
        with_forward = cuda_peers.torch_gradients(torch, lambda a, gate: act(gate) * a)
        c.torch("torch, with the forward", with_forward, dys, xs, gates)


def _maxout(shape: tuple[int, int], c: Contest) -> None:
    xs = c.column(*shape)
    c.gradfuse(lambda x: gradfuse.maxout_forward(x, 4)[0], xs)
    if torch_on_gpu():
        c.torch("torch", lambda x: x.view(len(x), 4, -1).amax(1), xs)


def _norm(n: int, c: Contest) -> None:
    xs = c.column(n)
    c.gradfuse(lambda x: gradfuse.clip_grad_norm_([x], 1e30), xs)
    if torch := torch_on_gpu():
        c.torch("torch", torch.linalg.vector_norm, xs)
        c.torch("torch foreach", lambda x: torch._foreach_norm([x]), xs)
    if c.dtype == "float32":
        import cupy

        c.cupy("cupy", lambda x: cupy.sqrt(cupy.dot(x, x)), xs)


# ---- batch normalization


def _statistics(c: Contest, channels: int) -> list[Column]:
    """Running mean and variance, weight and bias: of float32 for every dtype, as training has them."""
    vectors = [(0.1, 0.0), (0.1, 1.0), (0.1, 1.0), (0.1, 0.0)]
    return [[c.memory.random(channels, scale=s, shift=m)] * c.sets for s, m in vectors]


def _batch_norm(fused: bool, shape: tuple[int, ...], c: Contest) -> None:
    xs, (means, variances, weights, biases) = c.column(*shape, scale=2, shift=1), _statistics(c, shape[1])
    c.where_kept = fused
    options: dict[str, Any] = {}
    if fused:
        options = {"activation": "relu", "dropout": 0.5, "rng": gradfuse.Generator(1, capturable=True)}
    arrays = xs, means, variances, weights, biases
    c.gradfuse(lambda *a: gradfuse.batch_norm_forward(*a, **options)[0], *arrays)
    if torch := torch_on_gpu():
        run = cuda_peers.torch_batch_norm(torch, fused)
        c.torch("torch", run, *arrays)
        c.compiled(run, *arrays)


def _batch_norm_backward(fused: bool, shape: tuple[int, ...], c: Contest) -> None:
    xs, dys, (_, _, weights, biases) = c.column(*shape), c.column(*shape), _statistics(c, shape[1])
    options: dict[str, Any] = {"activation": "relu", "dropout": 0.5, "rng": 1} if fused else {}
    forward = [
        gradfuse.batch_norm_forward(x, None, None, w, b, **options) for x, w, b in zip(xs, weights, biases, strict=True)
    ]
    c.gradfuse(gradfuse.batch_norm_backward, dys, [ctx for _, ctx in forward])
    torch = torch_on_gpu()
    if not torch:
        return
    tx, tw, tb = _tensors((xs, weights, biases))
    saved = [
        torch.ops.aten.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)
        for x, w, b in zip(tx, tw, tb, strict=True)
    ]
    arrays = [dys, xs, weights, [s[1] for s in saved], [s[2] for s in saved]]
    if fused:
        arrays += [[_nonzero(y) for y, _ in forward], [s[0].relu() for s in saved]]
    c.torch("torch", cuda_peers.torch_batch_norm_backward(torch, fused), *arrays)
    c.compiled(cuda_peers.formula_batch_norm_backward(torch, fused), *arrays)
    if not fused and torch.backends.cudnn.is_available():

        def cudnn() -> Contender:
            a = torch.ops.aten
            # Its forward leaves what its backward reads.
            kept = [
                a.cudnn_batch_norm(x, w, b, None, None, True, 0.1, 1e-5) for x, w, b in zip(tx, tw, tb, strict=True)
            ]

            def run(dy: Any, x: Any, w: Any, s: Any) -> Any:
                return a.cudnn_batch_norm_backward(x, dy, w, None, None, s[1], s[2], 1e-5, s[3])

            return _contender("torch", run, [*_tensors((dys, xs, weights)), kept])

        c.add("torch, cudnn", cudnn)


def _batch_norm_with(options: dict[str, Any], shape: tuple[int, ...], c: Contest) -> None:
    """With an activation or along another axis, as cuda_peers.torch_batch_norm_with has it too."""
    xs, (_, _, weights, biases) = c.column(*shape, scale=2, shift=1), _statistics(c, shape[options.get("axis", 1)])
    c.gradfuse(lambda x, w, b: gradfuse.batch_norm_forward(x, None, None, w, b, **options)[0], xs, weights, biases)
    if torch := torch_on_gpu():
        run = cuda_peers.torch_batch_norm_with(torch, **options)
        c.torch("torch", run, xs, weights, biases)
        c.compiled(run, xs, weights, biases)


def _batch_norm_with_backward(options: dict[str, Any], shape: tuple[int, ...], c: Contest) -> None:
    xs, dys, (_, _, weights, biases) = c.column(*shape), c.column(*shape), _statistics(c, shape[options.get("axis", 1)])
    contexts = [
        gradfuse.batch_norm_forward(x, None, None, w, b, **options)[1]
        for x, w, b in zip(xs, weights, biases, strict=True)
    ]
    c.gradfuse(gradfuse.batch_norm_backward, dys, contexts)
    torch = torch_on_gpu()
    if not torch:
        return
    with_forward = cuda_peers.torch_gradients(torch, cuda_peers.torch_batch_norm_with(torch, **options))
    c.torch("torch, with the forward", with_forward, dys, xs, weights, biases)
    if "activation" not in options:
        tx, tw, tb = _tensors((xs, weights, biases))
        saved = [
            torch.ops.aten.native_batch_norm(x.movedim(-1, 1), w, b, None, None, True, 0.1, 1e-5)
            for x, w, b in zip(tx, tw, tb, strict=True)
        ]
        arrays = [dys, xs, weights, [s[1] for s in saved], [s[2] for s in saved]]
        c.torch("torch", cuda_peers.torch_batch_norm_columns_backward(torch), *arrays)


# ---- norms of rows


def _row_vectors(name: str, n: int, c: Contest) -> list[Column]:
    """Weight, and bias if the norm has one."""
    count = 2 if name == "layer_norm" else 1
    return [[c.memory.random(n, dtype=c.dtype, scale=0.1, shift=1)] * c.sets for _ in range(count)]


def _row_norm(name: str, shape: tuple[int, int], c: Contest) -> None:
    xs, vectors = c.column(*shape, scale=2, shift=1), _row_vectors(name, shape[1], c)
    forward = getattr(gradfuse, f"{name}_forward")
    c.gradfuse(lambda *a: forward(*a)[0], xs, *vectors)
    if torch := torch_on_gpu():
        run = cuda_peers.torch_row_norm(torch, name)
        c.torch("torch", run, xs, *vectors)
        c.compiled(run, xs, *vectors)


def _row_norm_backward(name: str, shape: tuple[int, int], c: Contest) -> None:
    dys, xs, vectors = c.column(*shape), c.column(*shape, scale=2, shift=1), _row_vectors(name, shape[1], c)
    forward = getattr(gradfuse, f"{name}_forward")
    contexts = [forward(*a)[1] for a in zip(xs, *vectors, strict=True)]
    c.gradfuse(getattr(gradfuse, f"{name}_backward"), dys, contexts)
    torch = torch_on_gpu()
    if not torch:
        return
    with_forward = cuda_peers.torch_gradients(torch, cuda_peers.torch_row_norm(torch, name))
    c.torch("torch, with the forward", with_forward, dys, xs, *vectors)
    if name == "layer_norm":
        a, n = torch.ops.aten, [shape[1]]
        saved = [a.native_layer_norm(x, n, w, b, 1e-5) for x, w, b in zip(*_tensors((xs, *vectors)), strict=True)]

        def run(dy: Any, x: Any, w: Any, b: Any, mean: Any, invstd: Any) -> Any:
            return a.native_layer_norm_backward(dy, x, n, mean, invstd, w, b, [True, True, True])

        c.torch("torch", run, dys, xs, *vectors, [s[1] for s in saved], [s[2] for s in saved])


# ---- optimizers

COMPILED_OPTIMIZERS = ("Adam", "NAdam", "Adamax", "RMSprop")
NOT_FUSED = ("NAdam", "Adamax", "RMSprop", "Adagrad")  # in PyTorch, on CUDA


def _resnet50() -> Iterator[tuple[int, ...]]:
    """The shapes of its 161 parameters: each convolution's weight, and its batch normalization's two vectors."""

    def layer(outputs: int, inputs: int, size: int) -> Iterator[tuple[int, ...]]:
        yield from ((outputs, inputs, size, size), (outputs,), (outputs,))

    yield from layer(64, 3, 7)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            for outputs, size in ((width, 1), (width, 3), (4 * width, 1)):
                yield from layer(outputs, inputs if size == 1 and outputs == width else width, size)
            if block == 0:
                yield from layer(4 * width, inputs, 1)
            inputs = 4 * width
    yield from ((1000, 2048), (1000,))


RESNET50 = list(_resnet50())


def _optimizer(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    c: Contest,
    *,
    clip: float | None = None,
    options: dict[str, Any] | None = None,
    master: bool = False,
) -> None:
    """One step of every contender, on parameters of its own and the same gradients."""
    memory, options = c.memory, options or {}
    start = [memory.random(*shape, dtype=c.dtype, scale=0.01) for shape in shapes]
    grads = [memory.random(*shape, dtype=c.dtype, scale=0.1) for shape in shapes]
    shown = slice(None, None, max(1, len(shapes) // 100))  # of many, those that are compared
    library = "torch" if is_torch(start[0]) else "cupy"

    def times(factor: float) -> None:
        for g in grads:
            g *= factor

    # Two steps, the gradients changed between, compared by how far they lead. PyTorch's clipping changes its own.
    if clip is None and c.dtype == "float32":
        c.first_calls.append((partial(times, -0.5), partial(times, -2)))
    c.base = start[shown]

    def contender(library: str, params: list[Any], step: Callable[[], object]) -> Contender:
        def call(_: int) -> list[Any]:
            step()
            return params[shown]

        return Contender(call, library)

    def ours(params: list[Any], g: list[Any], library: str) -> Contender:
        capturable = c.clock == "device"
        make = getattr(gradfuse.optim, name)
        optimizer = make(params, max_grad_norm=clip, master_weights=master, capturable=capturable, **options)
        return contender(library, params, lambda: optimizer.step(g))

    c.add("gradfuse", lambda: ours([_copy(p) for p in start], grads, library))
    torch = torch_on_gpu()
    if library == "cupy" and torch and len(shapes) > 1:
        c.add(
            "gradfuse, torch tensors",
            lambda: ours([as_torch(p).clone() for p in start], [as_torch(g) for g in grads], "torch"),
        )
    if master:
        return  # nobody else keeps float32 copies

    def theirs(kind: str) -> Contender:
        return contender("torch", *_torch_step(torch, name, kind, start, grads, clip, options))

    known = torch and hasattr(torch.optim, name)
    if known and name not in NOT_FUSED:
        c.add("torch fused", partial(theirs, "fused"))
    if known:
        c.add("torch foreach", partial(theirs, "foreach"))
    if known and name in COMPILED_OPTIMIZERS and clip is None and len(shapes) == 1:  # minutes, for many tensors
        c.add("torch.compile", partial(theirs, "compile"))
    if name == "Adam" and clip is None and len(shapes) == 1 and c.dtype == "float32":
        import cupy

        mine = [_copy(p) for p in start]
        c.add("cupy kernel", lambda: contender("cupy", mine, cuda_peers.cupy_adam(cupy, mine, grads)))
        if triton := triton_peer():
            p = as_torch(start[0]).clone()
            c.add("triton", lambda: contender("torch", [p], triton.Adam(p, as_torch(grads[0])).step))


def _copy(p: Any) -> Any:
    return p.clone() if is_torch(p) else p.copy()


def _torch_step(
    torch: Any,
    name: str,
    kind: str,
    start: list[Any],
    grads: list[Any],
    clip: float | None,
    options: dict[str, Any],
) -> tuple[list[Any], Callable[[], object]]:
    """PyTorch's optimizer: its parameters and a step."""
    make = getattr(torch.optim, name)
    known = inspect.signature(make).parameters
    flags = {"fused": True} if kind == "fused" else {"foreach": True}
    if "capturable" in known:
        flags["capturable"] = True
    params = [as_torch(p).clone().requires_grad_() for p in start]
    for p, g in zip(params, grads, strict=True):
        p.grad = as_torch(g) if clip is None else as_torch(g).clone()
    optimizer = make(params, **flags, **options)
    if kind == "compile":
        return params, torch.compile(optimizer.step)
    if clip is None:
        return params, optimizer.step

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, clip, foreach=True)
        optimizer.step()

    return params, step


# ---- small calls, by the host's clock


def _small_relu(c: Contest) -> None:
    import cupy

    xs = c.column(16)
    c.gradfuse(lambda x, y: gradfuse.relu(x, out=y), xs, _outputs(xs))
    c.gradfuse_on_torch(lambda x, y: gradfuse.relu(x, out=y), xs, _outputs(xs))
    c.cupy("cupy", lambda x, y: cupy.maximum(x, 0, out=y), xs, _outputs(xs))
    kernel = cupy.ElementwiseKernel("float32 x", "float32 y", cuda_peers.CUPY_FORWARD["relu"], "relu_forward")
    c.cupy("cupy kernel", kernel, xs, _outputs(xs))
    if torch := torch_on_gpu():
        c.torch("torch", peers.torch_forward(torch)["relu"], xs, _outputs(xs))
    if triton := triton_peer():
        c.torch("triton", partial(triton.elementwise, "relu"), xs, _outputs(xs))


def _small_softmax(c: Contest) -> None:
    xs = c.column(4, 16)
    c.gradfuse(lambda x: gradfuse.softmax(x), xs)
    c.gradfuse_on_torch(lambda x: gradfuse.softmax(x), xs)
    if torch := torch_on_gpu():
        c.torch("torch", lambda x: torch.softmax(x, 1), xs)


def _small_batch_norm(c: Contest) -> None:
    xs = c.column(32, 16)
    arrays = xs, *_statistics(c, 16)
    c.gradfuse(lambda *a: gradfuse.batch_norm_forward(*a)[0], *arrays)
    c.gradfuse_on_torch(lambda *a: gradfuse.batch_norm_forward(*a)[0], *arrays)
    if torch := torch_on_gpu():
        c.torch("torch", cuda_peers.torch_batch_norm(torch, False), *arrays)


# ---- the list


def _ceiling(kind: str, n: int, c: Contest) -> None:
    import cupy

    inputs = [c.column(n) for _ in range(2 if kind == "add" else 1)]
    for name, (library, function) in cuda_peers.ceilings(cupy, torch_on_gpu())[kind].items():
        take = c.torch if library == "torch" else c.cupy
        take(name, function if kind != "read" else _without_result(function), *inputs, _outputs(inputs[0]))


def _without_result(function: Callable[..., Any]) -> Callable[..., None]:
    def run(*arrays: Any) -> None:
        function(*arrays)

    return run


def ceilings() -> list[Case]:
    """How fast memory is read, copied, and two arrays made into one."""
    arrays = {"read": 1, "copy": 2, "add": 3}
    return [
        Case(kind, "float32", f"2^{power}", 4 * count << power, partial(_ceiling, kind, 1 << power))
        for power in (26, 28)
        for kind, count in arrays.items()
    ]


def _activation_cases(name: str, dtype: str) -> Iterator[Case]:
    n, item = ELEMENTS[dtype], ITEMSIZE[dtype]
    yield Case(name, dtype, _text((n,)), 2 * item * n, partial(_activation_forward, name, n))
    yield Case(f"{name} backward", dtype, _text((n,)), 3 * item * n, partial(_activation_backward, name, n))


def _other_cases(dtype: str) -> Iterator[Case]:
    """All but activations and optimizers. The factor is how many arrays of the shape must be moved."""

    def case(name: str, shape: tuple[int, ...], factor: float, build: Callable[[Contest], None]) -> Case:
        return Case(name, dtype, _text(shape), factor * ITEMSIZE[dtype] * math.prod(shape), build)

    n = ELEMENTS[dtype]
    yield case("dropout", (n,), 2, partial(_dropout, n))
    yield case("dropout backward", (n,), 2, partial(_dropout_backward, n))
    for name, activation in (("SwiGLU", "silu"), ("GEGLU", "gelu")):
        yield case(name, (n,), 3, partial(_gated, activation, n))
        yield case(f"{name} backward", (n,), 5, partial(_gated_backward, activation, n))
    for rows in ROWS:
        for log, name in ((False, "softmax"), (True, "log_softmax")):
            yield case(name, rows, 2, partial(_softmax, log, rows))
            yield case(f"{name} backward", rows, 3, partial(_softmax_backward, log, rows))
    for rows in LOGITS:
        yield case("cross-entropy with gradient", rows, 2, partial(_cross_entropy, rows))
    for row in _core.losses():
        yield case(row["name"], (n,), 3, partial(_loss, row["name"], n))
    yield case("maxout of 4", (n >> 10, 1024), 1.25, partial(_maxout, (n >> 10, 1024)))
    yield case("L2 norm", (n,), 1, partial(_norm, n))
    elu: dict[str, Any] = {"activation": "elu"}
    last: dict[str, Any] = {"axis": -1}
    for images in IMAGES:
        for fused, suffix in ((False, ""), (True, " + relu + dropout")):
            yield case(f"batch norm{suffix}", images, 3, partial(_batch_norm, fused, images))
            yield case(f"batch norm{suffix} backward", images, 5, partial(_batch_norm_backward, fused, images))
        yield case("batch norm + elu", images, 3, partial(_batch_norm_with, elu, images))
        yield case("batch norm + elu backward", images, 5, partial(_batch_norm_with_backward, elu, images))
    for columns in COLUMNS:
        yield case("batch norm, last axis", columns, 3, partial(_batch_norm_with, last, columns))
        yield case("batch norm, last axis, backward", columns, 5, partial(_batch_norm_with_backward, last, columns))
    for name in ("layer_norm", "rms_norm"):
        for rows in NORMALIZED:
            yield case(name, rows, 2, partial(_row_norm, name, rows))
            yield case(f"{name} backward", rows, 3, partial(_row_norm_backward, name, rows))


def _optimizer_cases() -> Iterator[Case]:
    n = PARAMETERS
    for spec in _core.optimizer_list():
        name = spec["name"]
        options = {"momentum": 0.9} if name == "SGD" else {}
        moved = optimizer_bytes(spec) + (8 if name == "SGD" else 0)
        build = partial(_optimizer, name, [(n,)], options=options)
        yield Case(f"{name} momentum" if options else name, "float32", _text((n,)), moved * n, build)
    total = sum(math.prod(shape) for shape in RESNET50)
    tensors, many = f"{len(RESNET50)} tensors", [(100,)] * 10_000
    yield Case("Adam, ResNet-50", "float32", tensors, 28 * total, partial(_optimizer, "Adam", RESNET50))
    yield Case(
        "Adam, 10,000 tensors of 100", "float32", "a graph, in L2", 28e6, partial(_optimizer, "Adam", many), calls=8
    )
    yield Case(
        "Adam, 10,000 tensors of 100",
        "float32",
        "whole step",
        28e6,
        partial(_optimizer, "Adam", many),
        clock="step",
        calls=2,
    )
    yield Case("clip + Adam", "float32", _text((n,)), 32 * n, partial(_optimizer, "Adam", [(n,)], clip=1.0))


def _host_cases() -> Iterator[Case]:
    yield Case("a call: relu", "float32", "16", 0, _small_relu, clock="host", calls=100)
    yield Case("a call: softmax", "float32", "4x16", 0, _small_softmax, clock="host", calls=100)
    yield Case("a call: batch norm", "float32", "32x16", 0, _small_batch_norm, clock="host", calls=50)
    ten = partial(_optimizer, "Adam", [(16,)] * 10)
    yield Case("a call: Adam, 10 tensors", "float32", "16", 0, ten, clock="host", calls=20)


def all_cases(dtypes: Sequence[str], activations: Sequence[str]) -> list[Case]:
    """What matters most comes first, for time may run out."""
    cases: list[Case] = []
    for dtype in dtypes:
        for name in activations:
            cases += _activation_cases(name, dtype)
        cases += _other_cases(dtype)
        if dtype == "float32":
            cases += _optimizer_cases()
            cases += _host_cases()
        else:
            n = PARAMETERS
            build = partial(_optimizer, "Adam", [(n,)], master=True)
            cases.append(Case("Adam, float32 master", dtype, _text((n,)), 28 * n, build))
    return cases


def case_names(activations: Sequence[str] | None = None) -> list[str]:
    """Those that --only knows: of every activation, unless some are given."""
    cases = all_cases(list(ITEMSIZE), gradfuse.activations() if activations is None else activations)
    return list(dict.fromkeys(case.name for case in cases))
