"""The progress bar, on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers import optional


class Silent(list[Any]):
    """Stands in for the bar where there is no tqdm."""

    def set_description(self, text: str) -> None:
        pass


def progress_bar(cases: Sequence[Any]) -> Any:
    """An iterable of them that shows how far one is."""
    tqdm = optional("tqdm")
    return tqdm.tqdm(cases, unit="case") if tqdm else Silent(cases)
