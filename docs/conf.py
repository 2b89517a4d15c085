"""How `make docs` builds the documentation: Sphinx, pages in Markdown (MyST), the API from the docstrings.

A page of api/ names a module; the rest of it comes from the module's `__all__`.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef

import gradfuse
from gradfuse import _core

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import public_names, restructured

project = "gradfuse"
release = gradfuse.__version__
copyright = "the authors of gradfuse, under the MIT license"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
myst_enable_extensions = ["dollarmath"]
smartquotes = False

autodoc_class_content = "both"
autodoc_default_options = {"members": True, "member-order": "bysource", "special-members": "__call__"}
autodoc_inherit_docstrings = False  # Layer documents forward for all layers
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Array", "Loss", "Metric", "Objective", "Parameters", "Rng", "Shape")}
TypeAliasForwardRef.__repr__ = lambda self: self.name  # its text inside other types
autodoc_typehints_format = "short"
autosummary_generate = False
maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"gradfuse {release}"
html_static_path = ["_static"]
html_css_files = ["gradfuse.css"]
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}
html_math_renderer = "mathml"


def describe(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes of a docstring what Sphinx reads, and adds to a module's a table of its names."""
    try:
        arguments = list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        arguments = []
    lines[:] = restructured("\n".join(lines), arguments)
    if what == "module":
        lines += [".. autosummary::", "   :nosignatures:", ""]
        lines += [f"   {each}" for each in public_names(obj)]


def typed(app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str, result: str) -> Any:
    """A compiled function's signature with the types that it was declared with."""
    declared = _core.signatures.get(getattr(obj, "__name__", "")) if inspect.isbuiltin(obj) else None
    return declared.rsplit(" -> ", 1) if declared else None


# -- formulas, as MathML: browsers read it, and nothing has to be fetched


def math(self: Any, node: nodes.Element) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def math_block(self: Any, node: nodes.Element) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", describe)
    app.connect("autodoc-process-signature", typed)
    app.add_html_math_renderer("mathml", (math, None), (math_block, None))
