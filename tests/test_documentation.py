"""The docstring of every public name has the formula, the shapes, the errors and the source."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from test_lists import FUNCTIONS, SIMPLE

import gradfuse
from gradfuse import optim

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - SIMPLE))
def test_functions(name):
    doc = inspect.getdoc(getattr(gradfuse, name))
    assert "=" in doc or "dx" in doc, "the formula"
    assert "Raises" in doc
    assert any(word in doc for word in ("shape", "shapes", "channels")), "shapes"
    if not name.endswith("_backward"):
        assert "Source:" in doc
    assert max(map(len, doc.splitlines())) < 500


@pytest.mark.parametrize("name", sorted(SIMPLE))
def test_the_rest(name):
    assert len(inspect.getdoc(getattr(gradfuse, name))) > 20


@pytest.mark.parametrize("name", [n for n in optim.__all__ if n != "Optimizer"])
def test_optimizers(name):
    doc = inspect.getdoc(getattr(optim, name))
    assert "Raises" in doc
    assert "Source:" in doc
    for parameter in inspect.signature(getattr(optim, name)).parameters:
        assert f"{parameter}:" in doc


def test_stubs_and_tables_are_those_of_the_lists():
    if not (ROOT / "tools" / "generate.py").exists():
        pytest.skip("needs the source tree")
    run = subprocess.run([sys.executable, ROOT / "tools" / "generate.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_config_says_what_runs():
    text = gradfuse.show_config()
    for word in ("instruction set", "threads", "CUDA"):
        assert word in text
    assert subprocess.check_output([sys.executable, "-m", "gradfuse"], text=True).strip() == text
