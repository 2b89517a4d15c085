"""CONTRIBUTING's walk-through, done word for word in a copy of the tree: a few edits each, and all the rest follows."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EDIT = re.compile(r"<!-- edit: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def apply(tree, path, text):
    """A new file, a list's include and line, or functions before the reference's last words."""
    file = tree / path
    if not file.exists():
        file.write_text(text)
    elif file.name == "list.h":
        include, line = text.splitlines()
        source = file.read_text().replace("\n#include", f"\n{include}\n#include", 1)
        file.write_text(re.sub(r"(= List<.*\n)", rf"\g<1>{line}\n", source))
    else:
        before, marker, after = file.read_text().rpartition("# What `import *` takes")
        file.write_text(f"{before}{text}\n\n{marker}{after}")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The copy, edited and built for the baseline instruction set and emulated CUDA; and how to run Python in it."""
    if not (ROOT / "CMakeLists.txt").exists() or shutil.which("cmake") is None:
        pytest.skip("needs the source tree and cmake")
    tree = tmp_path_factory.mktemp("extended") / "tree"
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "*.so", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, tree, ignore=ignored)
    edits = EDIT.findall((tree / "CONTRIBUTING.md").read_text())
    assert len(edits) == 15
    for path, text in edits:
        apply(tree, path, text)

    pybind11 = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()
    build = tree / "build"
    configure = [
        "cmake",
        "-S",
        tree,
        "-B",
        build,
        "-DGRADFUSE_ISAS=baseline",
        "-DGRADFUSE_CUDA=EMULATED",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    subprocess.run([*configure, f"-DCMAKE_PREFIX_PATH={pybind11}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--parallel", "2"], check=True, capture_output=True)
    for module in build.glob("_core*.so"):
        shutil.copy(module, tree / "python" / "gradfuse")
    environment = {**os.environ, "PYTHONPATH": str(tree / "python"), "GRADFUSE_ISA": ""}

    def python(*arguments):
        run = subprocess.run([sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    return tree, python


def test_callable(extended):
    _, python = extended
    script = """
import numpy as np, gradfuse
x = np.linspace(-3, 3, 7, dtype=np.float32)
assert np.allclose(gradfuse.squareplus(x, b=2.0), gradfuse.reference.squareplus(x, b=2.0))
y, ctx = gradfuse.bias_act_forward(x[None], activation="squareplus")
dx, _ = gradfuse.bias_act_backward(np.ones_like(y), ctx)
assert np.allclose(dx, gradfuse.reference.squareplus_backward(np.ones_like(x), x))
for reduction in ("mean", "sum", "none"):
    options = {"eps": 0.5, "reduction": reduction}
    ours, theirs = (lib.charbonnier_loss(x, 0 * x, **options) for lib in (gradfuse, gradfuse.reference))
    assert all(map(np.allclose, ours, theirs))
gradfuse.optim.QHM([x], lr=0.1, momentum=0.5, nu=0.5).step([np.ones_like(x)])
assert np.allclose(x, np.linspace(-3, 3, 7) - 0.075)
"""
    python("-c", "import gradfuse.reference\n" + script)


def test_groups_callable(extended):
    """A row operation and a normalization, along any axis and fused with what comes after."""
    _, python = extended
    script = """
import numpy as np, gradfuse
import gradfuse.reference as ref
x, g = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
y, dx = gradfuse.l2_normalize(x, 0.5, axis=0), gradfuse.l2_normalize_backward(g, x, 0.5, axis=0)
assert np.allclose(y, ref.l2_normalize(x, 0.5, axis=0), atol=1e-6)
assert np.allclose(dx, ref.l2_normalize_backward(g, x, 0.5, axis=0), atol=1e-6)
y, total, ctx = gradfuse.l1_norm_forward(x, g[0], add=g, eps=0.1, activation="squareplus")
gradients = gradfuse.l1_norm_backward(g, ctx, x)
y_, total_, ctx_ = ref.l1_norm_forward(x, g[0], add=g, eps=0.1, activation="squareplus")
for a, b in zip((y, total, *gradients), (y_, total_, *ref.l1_norm_backward(g, ctx_, x)), strict=True):
    assert np.allclose(a, b, atol=1e-5)
"""
    python("-c", script)


def test_tested(extended):
    _, python = extended
    for tests, name, at_least in [
        ("test_activations.py", "squareplus", 5),
        ("test_reference.py", "l2_normalize", 3),  # axes
        ("test_reference_norms.py", "l1_norm", 5),
        ("test_rows.py::test_row", "l2_normalize", 100),
        ("test_rows.py::test_row_out", "l2_normalize", 50),
        ("test_norms.py::test_norm", "l1_norm and plain", 100),
        ("test_norms.py::test_add", "l1_norm", 100),
        ("test_optim.py", "QHM", 5),
    ]:
        out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{tests}", "-k", name)
        assert int(re.search(r"(\d+) passed", out)[1]) >= at_least
    out = python("-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_losses.py", "-k", "charbonnier_loss")
    passed = [line for line in out.splitlines() if "PASSED" in line]
    for words in product(["cpu", "cuda-emulated"], ["float16", "bfloat16", "float32", "float64"]):
        assert any(all(f"{word}-" in line for word in words) for line in passed), words


def test_documented(extended):
    tree, python = extended
    python("tools/generate.py")
    assert "def squareplus(x: Array, b: float = 4.0" in (tree / "python/gradfuse/_core.pyi").read_text()
    stub = (tree / "python/gradfuse/_core.pyi").read_text()
    assert re.search(
        r"def l2_normalize_backward\(\s*grad_out: Array, x: Array, eps: float = 1e-12, \*, axis: int", stub
    )
    assert re.search(r"def l1_norm\(\s*x: Array,\s*weight: Array \| None = None,\s*\*,\s*axis: int \| tuple", stub)
    assert "class QHM(Optimizer)" in (tree / "python/gradfuse/optim.pyi").read_text()
    readme = (tree / "README.md").read_text()
    assert "| `squareplus` |" in readme
    assert "| `l2_normalize` | x / sqrt(sum(x^2) + eps) | eps = 1e-12 | x |" in readme
    assert "| `l1_norm` | x / (mean(abs(x)) + eps) * weight | eps = 1e-05 |" in readme
    charbonnier = 'pred: Array, target: Array, eps: float = 0.001, *, reduction: str = "mean"'
    assert charbonnier in (tree / "python/gradfuse/_core.pyi").read_text()
    assert "| `charbonnier_loss` |" in readme
    assert "| `QHM` |" in readme
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_lists.py")
    assert "Barron 2021" in python("-c", "import gradfuse; print(gradfuse.squareplus.__doc__)")
    assert "Lai et al. 2017" in python("-c", "import gradfuse; print(gradfuse.charbonnier_loss.__doc__)")


def test_benchmarked(extended):
    _, python = extended
    for name in (
        "squareplus",
        "charbonnier_loss",
        "l2_normalize",
        "l2_normalize backward",
        "l1_norm",
        "l1_norm, inference",
        "QHM",
    ):
        out = python("-m", "gradfuse.bench", "--only", name, "--where", "L2", "--threads", "1", "--seconds", "0.001")
        assert re.search(rf"{name} .*L2", out)
    cases = python("-c", "from benchmarks.cases import case_names; print(*case_names(), sep=chr(10))").splitlines()
    assert {"l2_normalize", "l2_normalize, axis 0 backward", "l1_norm", "l1_norm backward"} <= {*cases}
