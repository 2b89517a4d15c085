"""The documentation: a docstring for every public name, a page for every module, snippets that run, links that lead on.

That Sphinx builds it without a warning is what `make docs` shows.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import pytest

import gradfuse

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from docstrings import public_names, restructured  # noqa: E402

PAGES = sorted(DOCS.glob("*.md"))
ELSEWHERE = {"bench", "functional", "reference"}  # a command, and what has the names that gradfuse has
MODULES = {m.name for m in pkgutil.iter_modules(gradfuse.__path__) if m.name[0] != "_"} - ELSEWHERE
NAMES = [
    (module, name)
    for module in ["gradfuse", *(f"gradfuse.{name}" for name in sorted(MODULES))]
    for name in public_names(importlib.import_module(module))
    if not inspect.ismodule(getattr(importlib.import_module(module), name))
]


def read(page):
    return page.read_text(encoding="utf-8")


# -- docstrings

CHECKS = re.compile(r"(_checks\.)?(number|integer|choice|flag)")
ABSTRACT = ["NotImplementedError"]


def refuses(f):
    """Whether a function raises errors or checks its arguments, as far as its own source shows."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(f)))))
    raised = [node.exc for node in nodes if isinstance(node, ast.Raise) and node.exc]
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return any(ast.unparse(e) not in ABSTRACT for e in raised) or any(CHECKS.fullmatch(ast.unparse(f)) for f in called)


def functions(value):
    """Those that a public name stands for: itself, or a class's own methods."""
    if inspect.isfunction(value):
        yield value
    elif inspect.isclass(value):
        for name, f in vars(value).items():
            if inspect.isfunction(f) and (name[0] != "_" or name in ("__init__", "__post_init__", "__call__")):
                yield f


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_docstrings(module, name):
    value = getattr(importlib.import_module(module), name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "a dataclass without one"
    for f in functions(value):
        if f.__code__.co_filename != "<string>" and refuses(f):  # a dataclass's own
            said = f"{value.__doc__} {f.__doc__}"
            assert re.search(r"Raises|\w+Error ", said), f"{f.__qualname__} raises what its docstring does not say"


# -- the API


@pytest.mark.parametrize("name", ["gradfuse", *sorted(MODULES)])
def test_every_module_has_a_page(name):
    module = name if name == "gradfuse" else f"gradfuse.{name}"
    assert f".. automodule:: {module}\n" in read(DOCS / "api" / f"{name}.rst")
    assert f"\napi/{name}\n" in read(DOCS / "index.md")


# -- pages


def blocks(text):
    """The blocks of Python on a page, each at its lines."""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: block.start(1)].count("\n") + block[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets(page, tmp_path, monkeypatch, threads):
    for package in ("matplotlib", "optuna", "safetensors"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    threads(1)
    namespace = {"__name__": "__main__"}
    for block in blocks(read(page)):
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page):
    for target in re.findall(r"\{py:\w+\}`(.*?)`", read(page)):
        module, _, name = target.rpartition(".")
        if target in sys.modules:
            continue
        if module not in sys.modules:  # a method
            module, _, owner = module.rpartition(".")
            assert inspect.getdoc(getattr(getattr(sys.modules[module], owner), name))
            name = owner
        assert name in public_names(sys.modules[module]), target


def test_figures():
    """Every example that draws a figure is shown, with the figure that it has drawn."""
    shown = {
        name for page in PAGES for name in re.findall(r"^```\{figure\} figures/(\w+)\.png$", read(page), re.MULTILINE)
    }
    linked = {name for page in PAGES for name in re.findall(r"<\.\./examples/(\w+)\.py>", read(page))}
    examples = {p.stem for p in (ROOT / "examples").glob("*.py") if "figure_path(__file__)" in read(p)}
    assert shown == linked == examples
    assert all((DOCS / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in shown)


def test_quick_start_is_the_readmes():
    assert next(blocks(read(ROOT / "README.md"))).lstrip("\n") in read(DOCS / "index.md")


# -- docstrings as Sphinx reads them


def test_formula_items_and_fields():
    doc = """y = x * max(x, 0) ... x

    x has shape (N,), where asked for
    one: no argument. Beware of *this* and p_. lr, momentum: numbers
    >= 0. axis: as in `gradfuse.softmax`, `a + b`. Raises ValueError for an
    x of nothing. Source: Nobody
    2020; gradfuse.nn.ELU.
    """
    assert restructured(doc, ["momentum", "lr", "axis"]) == [
        "``y = x * max(x, 0) \u2026 x``",
        "",
        r"x has shape (N,), where asked for one: no argument. Beware of \*this\* and p\_.",
        "",
        "* ``lr, momentum``: numbers >= 0.",
        r"* ``axis``: as in :py:obj:`gradfuse.softmax`\ , ``a + b``\ .",
        "",
        ":Raises: ValueError for an x of nothing.",
        r":Source: Nobody 2020; :py:obj:`gradfuse.nn.ELU`\ .",
        "",
    ]


def test_first_words_are_no_item_and_what_is_indented_stays():
    assert restructured("gradfuse: kernels.\n\n    a = b * c\n\nThe rest.", []) == [
        "gradfuse: kernels.",
        "",
        "::",
        "",
        "    a = b * c",
        "",
        "The rest.",
        "",
    ]
