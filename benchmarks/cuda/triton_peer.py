"""Hand-written Triton kernels: what a careful user of Triton would have. Imported only where Triton is installed."""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _elementwise(x_ptr, y_ptr, n, NAME: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n).to(tl.float32)
    if NAME == "relu":
        y = tl.where(x < 0, 0.0, x)
    elif NAME == "silu":
        y = x / (1 + tl.exp(-x))
    else:
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _softmax(x_ptr, y_ptr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * COLUMNS
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + at, mask=at < COLUMNS, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    tl.store(y_ptr + row + at, y.to(y_ptr.dtype.element_ty), mask=at < COLUMNS)


@triton.jit
def _adam(p_ptr, g_ptr, m_ptr, v_ptr, n, rate, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(g_ptr + at, mask=inside)
    m = tl.load(m_ptr + at, mask=inside)
    v = tl.load(v_ptr + at, mask=inside)
    p = tl.load(p_ptr + at, mask=inside)
    m += (1 - 0.9) * (g - m)
    v += (1 - 0.999) * (g * g - v)
    p -= rate * m / (tl.sqrt(v) * scale + 1e-8)
    tl.store(m_ptr + at, m, mask=inside)
    tl.store(v_ptr + at, v, mask=inside)
    tl.store(p_ptr + at, p, mask=inside)


ELEMENTWISE = ("relu", "gelu", "silu")


def elementwise(name: str, x: Any, y: Any) -> Any:
    """y = name(x), for dense tensors of one dtype; 16 bytes an access, four of them by a thread."""
    block = 4 * 16 * 256 // x.element_size()
    _elementwise[(triton.cdiv(x.numel(), block),)](x, y, x.numel(), NAME=name, BLOCK=block, num_warps=8)
    return y


def softmax(x: Any, y: Any) -> Any:
    """Along the rows of a dense matrix, each by one program that reads it once."""
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    warps = min(32, max(4, block // 1024))
    _softmax[(rows,)](x, y, COLUMNS=columns, BLOCK=block, num_warps=warps)
    return y


class Adam:
    """Adam with PyTorch's defaults, for one dense float32 tensor."""

    def __init__(self, p: Any, g: Any) -> None:
        self._p, self._g, self._m, self._v = p, g, p.new_zeros(p.shape), p.new_zeros(p.shape)
        self._t = 0

    def step(self) -> None:
        self._t += 1
        block, n = 1024, self._p.numel()
        rate, scale = 1e-3 / (1 - 0.9**self._t), (1 - 0.999**self._t) ** -0.5
        _adam[(triton.cdiv(n, block),)](self._p, self._g, self._m, self._v, n, rate, scale, BLOCK=block, num_warps=4)
