"""Documents that were good once: a few of their values changed, dropped, nested or given twice."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 64, 255, 1 << 31, 1 << 40, 1 << 53, 1 << 63, 1 << 64, 10**400,
    -(10**30), 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"), "", "x", " ", "\0", "\n",
    "\x1b[2J", "\ud800", "[red]", "é" * 300, "a" * 5000, "../x", "/etc/passwd", "x/y", "C:\\x",
    "(a+)+$", "(?i)x", "*" * 50, "0" * 64, "F32", "BF16", "[[", "__metadata__", [], {}, [[]], [0],
    [1, 1], [0, 1 << 60], [1 << 40, 1 << 40], ["x"], [None], {"x": 1}, {"": {}},
    {"x": {"x": {"x": []}}},
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn, good: Any, most: int = 3) -> Any:
    """The document with one to `most` changes."""
    document = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, most))):
        everything = list(places(document))
        if not everything:
            return document
        holder, key = everything[draw(st.integers(0, len(everything) - 1))]
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        match draw(st.sampled_from(["value", "value", "drop", "member", "nest", "copy"])):
            case "value":
                holder[key] = odd
            case "drop":
                del holder[key]
            case "member" if isinstance(holder, dict):
                name = draw(st.sampled_from([x for x in ODD if isinstance(x, str)]))
                holder[name] = odd
            case "nest":
                for _ in range(draw(st.sampled_from([1, 5, 200]))):
                    holder[key] = [holder[key]]
            case _:
                other, where = everything[draw(st.integers(0, len(everything) - 1))]
                holder[key] = copy.deepcopy(other[where])
    return document


@st.composite
def json_of(draw: st.DrawFn, good: Any) -> bytes:
    """The JSON of a mutated document, now and then with a byte or a piece changed."""
    text = json.dumps(draw(mutated(good)), ensure_ascii=draw(st.booleans()))
    return draw(_spoiled(text.encode(errors="surrogatepass")))


@st.composite
def _spoiled(draw: st.DrawFn, raw: bytes) -> bytes:
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(raw)))
        end = min(len(raw), at + draw(st.integers(0, 20)))
        piece = draw(st.one_of(st.binary(max_size=4), st.just(raw[at:end] * 2), st.just(b"")))
        raw = raw[:at] + piece + raw[end:]
    return raw
