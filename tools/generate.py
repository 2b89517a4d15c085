"""Writes the files that are made from the lists: the stubs, and the tables of the README. With --check only compares.

Signatures come from the declarations of the compiled functions, tables from the descriptions of the lists' rows,
figures from the committed benchmark results.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradfuse
from gradfuse import _core, optim

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402

STUBS = ROOT / "python" / "gradfuse"

HEADER = '''"""Generated from the compiled module by `make stubs`; do not edit."""

'''


def _parameters(annotated: list[tuple[inspect.Parameter, str]]) -> list[str]:
    """The parameters as they stand in a stub, with the star before the keyword-only ones."""
    texts: list[str] = []
    for p, annotation in annotated:
        if p.kind is p.KEYWORD_ONLY and "*" not in texts:
            texts.append("*")
        default = "" if p.default is p.empty else f" = {p.default!r}".replace("'", '"')
        texts.append(f"{p.name}: {annotation}{default}")
    return texts


def core_stub() -> str:
    lines = [HEADER, "from collections.abc import Callable, Sequence\nfrom typing import Any, TypeVar\n\n"]
    lines.append(f"__all__ = {json.dumps(list(_core.__all__), indent=4)}\n\n".replace('"\n]', '",\n]'))
    lines.append('Array = TypeVar("Array")\n\nsignatures: dict[str, str]\n\n')
    lines.append(
        "class Generator:\n"
        "    def __init__(self, seed: int, capturable: bool = False) -> None: ...\n"
        "    @property\n    def seed(self) -> int: ...\n"
        "    @property\n    def stream(self) -> int: ...\n"
        "    @property\n    def capturable(self) -> bool: ...\n"
        "    def state_dict(self) -> dict[str, int]: ...\n"
        "    def load_state_dict(self, state: dict[str, int]) -> None: ...\n\n"
        "class Plan:\n"
        "    clocks: list[tuple[int, float]]\n"
        "    @property\n    def t(self) -> int: ...\n"
        "    @property\n    def state(self) -> list[dict[str, Any]]: ...\n"
        "    def __init__(\n        self, row: int, parameters: list[Any], group_sizes: list[int], values: list[Any], "
        "master_weights: bool, capturable: bool\n    ) -> None: ...\n"
        "    def exclusively(self, f: Callable[..., Any], *arguments: Any) -> Any: ...\n"
        "    def refresh_master_weights(self) -> None: ...\n"
        "    def set_groups(self, groups: list[Any]) -> None: ...\n"
        "    def step(\n        self, grads: Sequence[Any], groups: list[Any], max_grad_norm: float | None, "
        "nonfinite: str, grad_scale: float\n    ) -> Any: ...\n\n"
    )
    lines += [f"def {name}{signature}: ...\n" for name, signature in sorted(_core.signatures.items())]
    return "".join(lines)


def optim_stub() -> str:
    tree = ast.parse((STUBS / "optim.py").read_text())
    base = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    public = [n for n in base.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    for node in public:
        node.body = [ast.Expr(ast.Constant(...))]
    attributes = (
        "    groups: list[dict[str, Any]]\n    params: tuple[Any, ...]\n    state: list[dict[str, Any]]\n"
        "    last_grad_norm: Any\n    max_grad_norm: float | None\n"
        "    nonfinite: str\n    master_weights: bool\n    capturable: bool\n"
    )
    text = HEADER + "from collections.abc import Callable, Iterable, Sequence\nfrom typing import Any\n\n"
    text += "Schedule = Callable[[int], float]\n\nclass Optimizer:\n" + attributes
    text += "".join(
        "    " + ast.unparse(n).replace("\n", "\n    ").replace(":\n        ...", ": ...") + "\n" for n in public
    )
    kinds = {
        float: "float | Schedule",
        bool: "bool",
        str: "str",
        tuple: "tuple[float, float] | Callable[[int], tuple[float, float]]",
        type(None): "float | None",
    }
    for spec in _core.optimizer_list():
        signature = inspect.signature(getattr(optim, spec["name"]))
        annotated = []
        for p in signature.parameters.values():
            annotation = "Iterable[Any]" if p.name == "params" else kinds[type(p.default)]
            annotated.append((p, annotation))
        arguments = ", ".join(["self", *_parameters(annotated)])
        text += f"\nclass {spec['name']}(Optimizer):\n    def __init__({arguments}) -> None: ...\n"
    return text


def _table(title: str, rows: list[tuple[str, dict[str, Any], str]]) -> str:
    """A list's table, of names, what they say of themselves, and the column that this list alone has."""
    lines = [f"| function | formula | parameters | {title} | source |", "|---|---|---|---|---|"]
    for name, info, text in rows:
        parameters = ", ".join(
            f"{k} = {v:g}" if type(v) is float else f"{k} = {v}" for k, v in info["parameters"].items()
        )
        lines.append(f"| `{name}` | {info['formula']} | {parameters} | {text} | {info['source']} |")
    return "\n".join(lines)


def activation_table() -> str:
    infos = {name: _core.activation_info(name) for name in gradfuse.activations()}
    return _table("backward from", [(name, info, info["saves"]) for name, info in infos.items()])


def row_table() -> str:
    infos = {name: _core.row_info(name) for name in _core.row_operations()}
    return _table("backward from", [(name, info, info["saves"]) for name, info in infos.items()])


def norm_table() -> str:
    groups = {"rows": "along `axis`", "channel_groups": "of channels", "channels": "each a channel"}
    infos = {name: _core.norm_info(name) for name in _core.norms()}
    return _table("groups", [(name, info, groups[info["groups"]]) for name, info in infos.items()])


def loss_table() -> str:
    rows = ["| function | loss of one element | parameters | source |", "|---|---|---|---|"]
    for row in _core.losses():
        parameters = ", ".join(f"{k} = {v:g}" for k, v in row["parameters"].items())
        rows.append(f"| `{row['name']}` | {row['formula']} | {parameters} | {row['source']} |")
    return "\n".join(rows)


def optimizer_table() -> str:
    rows = ["| class | update | source |", "|---|---|---|"]
    rows += [f"| `{spec['name']}` | {spec['formula']} | {spec['source']} |" for spec in _core.optimizer_list()]
    return "\n".join(rows)


def benchmark_table() -> str:
    parts = []
    full = [path for path in (ROOT / "benchmarks" / "results").glob("cpu-*.json") if report.PARTIAL not in path.name]
    for path in sorted(full, reverse=True):
        results = json.loads(path.read_text())
        m = results["machine"]
        title = f"{m['processor']}, {m['instruction set']} build, {m['versions']}, commit {m['commit']}, {m['date']}"
        parts.append(
            f"<details{' open' * (not parts)}>\n<summary>{title}</summary>\n\n"
            f"{report.markdown(results['rows'])}\n\n</details>"
        )
    return "\n\n".join(parts)


def readme() -> str:
    text = (ROOT / "README.md").read_text()
    tables = {
        "activations": activation_table,
        "rows": row_table,
        "norms": norm_table,
        "losses": loss_table,
        "optimizers": optimizer_table,
        "benchmark": benchmark_table,
    }
    for name, make in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda m, make=make: f"{m[1]}\n{make()}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


def formatted(stub: str) -> str:
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "stub.pyi", "-"]
    return subprocess.run(ruff, input=stub, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a file is out of date")
    check = parser.parse_args().check
    made = {STUBS / "_core.pyi": core_stub(), STUBS / "optim.pyi": optim_stub(), ROOT / "README.md": readme()}
    stale = []
    for path, text in made.items():
        if path.suffix == ".pyi":
            text = formatted(text)
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(text)
    if stale and check:
        print(f"out of date: {', '.join(stale)}; run `make stubs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
