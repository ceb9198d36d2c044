"""A scan whose blocks are changed before anyone looks at them: for methods that work on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from taskstore.merging.methods.api import Scan, Vectors


@dataclass(frozen=True)
class Changed:
    scan: Scan
    change: Callable[[Vectors], Vectors]

    @property
    def names(self) -> list[str]:
        return self.scan.names

    def elements(self) -> list[int]:
        return self.scan.elements()

    def blocks(self, function: Callable[[Vectors], Any]) -> Iterator[tuple[str, Any]]:
        return self.scan.blocks(lambda block: function(self.change(block)))
