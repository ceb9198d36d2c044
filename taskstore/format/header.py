"""Read the header of a safetensors file without trusting it, and write one.

Stores and checkpoints both use it. It is a reader of our own, because blocks must be read at their
offsets with plain reads: a memory map would count every page towards the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskstore.format import json_text
from taskstore.format.dtypes import MAX_TENSOR_BYTES
from taskstore.format.names import MAX_TENSOR_NAME
from taskstore.locations.base import OpenFile

MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Place:
    """One tensor of a file: safetensors dtype, shape, and its bytes [begin, end) in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class BadHeader(ValueError):
    """What is wrong, without the file's name; callers turn it into their own error."""


def read(file: OpenFile, itemsize: Mapping[str, int]) -> tuple[dict[str, Place], Any]:
    """Read all entries of a safetensors file, and its `__metadata__` (or None).

    Raises BadHeader where the file is no whole, hole-free safetensors file of dtypes in
    `itemsize`. Nothing larger than the file is allocated.
    """
    size = file.size
    if size < 8:
        raise BadHeader("is truncated: shorter than a safetensors header")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        raise BadHeader("is not a safetensors file: its header would be over 100 MB")
    if 8 + length > size:
        raise BadHeader("is truncated: its header goes past the end of the file")
    return parse(file.read(8, length), size, itemsize)


def parse(raw: bytes, size: int, itemsize: Mapping[str, int]) -> tuple[dict[str, Place], Any]:
    """Parse the header's JSON alone; see `read`."""
    document = _parse(raw)
    metadata = document.pop("__metadata__", None)
    data = 8 + len(raw)
    entries = {name: _entry(name, value, data, size, itemsize) for name, value in document.items()}
    position = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise BadHeader(f"has a hole or an overlap before tensor {name!r}")
        position = entry.end
    if position != size:
        raise BadHeader(f"holds {size - position} bytes that belong to no tensor")
    return entries, metadata


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        document = json_text.parse(raw)
    except ValueError as error:
        raise BadHeader(f"has a broken safetensors header: {error}") from None
    if not isinstance(document, dict):
        raise BadHeader("has a safetensors header that is no JSON object")
    return document


def _entry(name: str, value: Any, data: int, size: int, itemsize: Mapping[str, int]) -> Place:
    if len(name) > MAX_TENSOR_NAME:
        raise BadHeader(f"names a tensor {name[:40]!a}... of {len(name)} characters")
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise BadHeader(f"describes tensor {name!r} incompletely") from None
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) or len(shape) > 64:
        raise BadHeader(f"gives tensor {name!r} an impossible shape or offset")
    if not isinstance(dtype, str) or dtype not in itemsize:
        raise BadHeader(f"holds tensor {name!r} of dtype {dtype!r}, which is not supported")
    count = itemsize[dtype] * math.prod(shape)
    if math.prod(n or 1 for n in shape) > MAX_TENSOR_BYTES:
        raise BadHeader(f"gives tensor {name!r} an impossible shape")
    if not begin <= end or data + end > size:
        raise BadHeader(f"is truncated: tensor {name!r} goes past the end of the file")
    if end - begin != count:
        raise BadHeader(
            f"gives tensor {name!r} of shape {list(shape)} {end - begin} bytes where {dtype} "
            f"needs {count}"
        )
    return Place(dtype, tuple(shape), data + begin, data + end)


def render(
    entries: Mapping[str, tuple[str, tuple[int, ...], int, int]],
    metadata: Mapping[str, str],
    align: int = 8,
    at_least: int = 0,
) -> bytes:
    """Render length and JSON, padded with spaces so that data starts at a multiple of `align`.

    entries: name -> dtype, shape, begin, end, offsets counted from the start of the data.
    """
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, (dtype, shape, begin, end) in entries.items():
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    total = max(8 + len(text), at_least)
    total += -total % align
    return (total - 8).to_bytes(8, "little") + text.ljust(total - 8)
