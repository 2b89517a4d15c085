"""What the commands here have in common."""

from __future__ import annotations

import os
from pathlib import Path

from gradfuse.bench import Parser

BOTH_KINDS = """A run that leaves something out, or that is stopped, never replaces the files of a full run: it writes
to files of the same name with -partial added."""


def add_only(parser: Parser) -> None:
    parser.add_argument("--list", action="store_true", help="show the names of the cases and end")
    parser.add_argument("--only", default="*", metavar="NAME", help="a case, or those that match, as in 'relu*'")


def add_output(parser: Parser) -> None:
    default = Path("build") / "benchmarks"
    parser.add_argument("--output", type=Path, default=default, help=f"folder to write to ({default})")


def prepared(parser: Parser, folder: Path) -> None:
    """Makes the folder, before minutes are spent on what is to be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: must be a folder, got {str(folder)!r} ({error.strerror})")
    if not os.access(folder, os.W_OK):
        parser.error(f"argument --output: must be a folder that can be written to, got {str(folder)!r}")
