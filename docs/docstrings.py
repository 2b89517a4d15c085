"""The package's docstrings, which are plain text, as the reStructuredText that Sphinx reads.

A first paragraph without a full stop is a formula. Arguments ("lr: ..."), "Raises ..." and "Source: ..." begin a line
or follow a full stop; they become items and fields, as do names on indented lines. Names in backticks become links
where there is something to link to. All else is escaped.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from types import ModuleType

_NAMES = r"[a-z_]\w*(?:, [a-z_]\w*)*"
_LITERAL, _ITEM, _FIELD = re.compile(r"    "), re.compile(rf"({_NAMES}): "), re.compile(r"(Raises|Source):? ")
_INLINE = re.compile(r"`(?P<code>[^`]+)`|(?P<name>\bgradfuse(?:\.\w+)+)|(?P<dots>\.{3})|[\\`*_|]")


def public_names(module: ModuleType) -> list[str]:
    """Of `__all__`, or without one of what the module itself defines."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in names if not name.startswith("_")]


def restructured(doc: str, arguments: list[str]) -> list[str]:
    """The lines of reStructuredText for a docstring; arguments: the names that may begin an item within a line."""
    lines: list[str] = []
    for i, paragraph in enumerate(re.split(r"\n(?:\s*\n)+", inspect.cleandoc(doc))):
        blocks = list(_split(paragraph, arguments))
        if _LITERAL.match(paragraph):
            lines += ["::", "", *paragraph.splitlines(), ""]
        elif i == 0 and not paragraph.endswith((".", ":")):
            lines += [f"``{' '.join(blocks)}``".replace("...", "\u2026"), ""]
        else:
            if i == 0:
                lines += [_inline(blocks.pop(0)), ""]
            for _, alike in groupby(map(_block, blocks), key=lambda block: block[0]):
                lines += [*(line for _, line in alike), ""]
    return lines


def _split(paragraph: str, arguments: list[str]) -> Iterator[str]:
    """A paragraph's blocks, each on one line."""
    argument = f"(?:{'|'.join(arguments) or '(?!)'})"
    start = f"Raises |Source: |{argument}(?:, {argument})*: "
    boundary = rf"(?<=\.)\n|\n(?=\s+{_NAMES}: |{start})|(?<=\.) (?={start})"
    return (" ".join(block.split()) for block in re.split(boundary, paragraph))


def _block(text: str) -> tuple[str, str]:
    """What kind of a block it is, and its line."""
    if item := _ITEM.match(text):
        return "item", f"* ``{item[1]}``: {_inline(text[item.end() :])}"
    if field := _FIELD.match(text):
        return "field", f":{field[1]}: {_inline(text[field.end() :])}"
    return "text", _inline(text)


def _inline(text: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        if match["dots"]:
            return "\u2026"  # in a table of summaries full stops end them
        name = match["name"] or match["code"]
        if name is None:
            return f"\\{match[0]}"
        return f":py:obj:`{name}`\\ " if re.fullmatch(r"\w[\w.]*", name) else f"``{name}``\\ "

    return _INLINE.sub(replaced, text)
