"""Reads sizes in bytes as people write them: 2GiB, 500MB."""

from __future__ import annotations

import re

from taskstore.errors import OptionError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """ "2GiB", "500 MB", "1e9" -> bytes; raises OptionError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        if not found:
            raise ValueError
        units = _BINARY if found[3] else _UNITS
        return int(float(found[1]) * units[found[2].upper()])
    except ValueError:
        raise OptionError(f"{text!r} is not a size; write it like 2GiB or 500MB") from None
