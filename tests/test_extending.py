"""CONTRIBUTING's walk-through, done word for word in a copy of the tree: three edits each, and all the rest follows."""

import os
import re
import shutil
import subprocess
import sys
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
    assert len(edits) == 6
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
gradfuse.optim.QHM([x], lr=0.1, momentum=0.5, nu=0.5).step([np.ones_like(x)])
assert np.allclose(x, np.linspace(-3, 3, 7) - 0.075)
"""
    python("-c", "import gradfuse.reference\n" + script)


def test_tested(extended):
    _, python = extended
    for file, name in [("test_activations.py", "squareplus"), ("test_optim.py", "QHM")]:
        out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}", "-k", name)
        assert int(re.search(r"(\d+) passed", out)[1]) >= 5


def test_documented(extended):
    tree, python = extended
    python("tools/generate.py")
    assert "def squareplus(x: Array, b: float = 4.0" in (tree / "python/gradfuse/_core.pyi").read_text()
    assert "class QHM(Optimizer)" in (tree / "python/gradfuse/optim.pyi").read_text()
    readme = (tree / "README.md").read_text()
    assert "| `squareplus` |" in readme
    assert "| `QHM` |" in readme
    assert "Barron 2021" in python("-c", "import gradfuse; print(gradfuse.squareplus.__doc__)")


def test_benchmarked(extended):
    _, python = extended
    for name in ("squareplus", "QHM"):
        out = python("-m", "gradfuse.bench", "--only", name, "--where", "L2", "--threads", "1", "--seconds", "0.001")
        assert re.search(rf"{name} .*L2", out)
