"""Parse JSON from files that nobody vouches for: regular, of bounded size and number of values."""

from __future__ import annotations

import json
import math
from typing import Any

from taskstore.format.names import has_control
from taskstore.locations.base import PathLike
from taskstore.locations.files import read_regular

# A manifest has about 170 bytes and 4 values per tensor of a task: 70B with 100 tasks 13 MB and
# 300,000 values, a mixture of 92,000 tensors with 10 tasks 160 MB and 3.7 million.
MAX_VALUES = 1 << 22
MAX_FILE = 64 << 20  # of a config or an index
_SPACES = {ord(c): " " for c in "\n\r\t"}  # JSON itself has these between strings alone


def parse(raw: bytes, *, strict: bool = False) -> Any:
    """Parse one document; raises ValueError, one line, where it is broken or out of proportion.

    Members that are given twice are refused. `strict` also refuses numbers that are not finite and
    strings with control characters. Values are counted before any is made.
    """
    check_values(raw)
    kept: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if strict else {}
    text = raw.decode()
    plain = not strict or _is_plain(text)
    try:
        return json.loads(text, object_pairs_hook=_once if plain else _plain, **kept)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_values(raw: bytes) -> None:
    """Raise ValueError where a document has too many commas and opening brackets to be parsed."""
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values")


def read(path: PathLike, within: PathLike, limit: int = MAX_FILE) -> Any:
    """Parse a file of at most `limit` bytes; raises ValueError, or OSError as `read_regular`."""
    return parse(read_regular(path, limit, within))


def _is_plain(text: str) -> bool:
    """Tell, sooner than string by string, that none of them can hold a control character."""
    return text.isascii() and "\\" not in text and text.translate(_SPACES).isprintable()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one of its objects")
    return result


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for text in (t for pair in pairs for t in pair if isinstance(t, str)):
        if has_control(text):
            raise ValueError(f"{text[:200]!a} holds a control character")
    return _once(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number
