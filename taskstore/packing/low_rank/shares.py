"""Matrices whose steps are finer than those of others, by their names.

Errors of an embedding and of the first layers reach every layer after them, and attention minds
them more than the wide matrices around it (docs/fidelity.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FINER = ((re.compile(r"embed|wte|wpe|lm_head"), 0.6), (re.compile(r"attn|attention"), 0.75))
LAYER = re.compile(r"(.*?)\b(?:layers?|blocks?|h)\.(\d+)\.")
FIRST, FIRST_FINER = 4, 0.8  # the first layers, one in so many


def shares(names: Iterable[str]) -> dict[str, float]:
    """Return each tensor's step over that of its task; a matrix of no known name has 1."""
    found = {name: LAYER.match(name) for name in names}
    last = dict[str, int]()
    for match in found.values():
        if match:
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return {
        name: _by_name(name)
        * (FIRST_FINER if match and int(match[2]) < max(1, (last[match[1]] + 1) // FIRST) else 1.0)
        for name, match in found.items()
    }


def _by_name(name: str) -> float:
    return next((share for known, share in FINER if known.search(name)), 1.0)
