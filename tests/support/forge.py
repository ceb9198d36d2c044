"""Stores broken by hand: edit one thing, then seal everything around it again.

Written against SPEC.md alone, not with the library's writer, so that exactly one MUST is broken
and the checksums are right.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

Document = dict[str, Any]
Sections = dict[str, bytes]
MANIFEST = "taskstore.json"


def load(store: Path) -> Document:
    document: Document = json.loads((store / MANIFEST).read_text())
    return document


def seal(store: Path, document: Document) -> None:
    """Write the manifest with its checksum in the last member."""
    document.pop("checksum", None)
    document["checksum"] = "0" * 64
    text = json.dumps(document, indent=1) + "\n"
    digest = blake3(text.encode()).hexdigest()
    assert text.endswith("0" * 64 + '"\n}\n')
    (store / MANIFEST).write_text(text[: -len("0" * 64 + '"\n}\n')] + digest + '"\n}\n')


def edit(store: Path, change: Callable[[Document], object]) -> None:
    """Change the manifest and seal it."""
    document = load(store)
    change(document)
    seal(store, document)


def make_older(store: Path, version: int) -> None:
    """Turn a store into one of an older version, which says nothing of its fine-tunes."""

    def change(document: Document) -> None:
        document["version"] = version
        document.pop("vectors", None)
        for task in document["tasks"].values():
            task.pop("fidelity", None)

    edit(store, change)


def replace_file(store: Path, path: str, raw: bytes) -> None:
    """Put other bytes where a file was, with the right size and checksum in the manifest."""
    (store / path).write_bytes(raw)
    entry = {"bytes": len(raw), "blake3": blake3(raw).hexdigest()}
    edit(store, lambda d: d["files"].update({path: entry}))


def sections(store: Path, path: str) -> Sections:
    """Name -> bytes of a container."""
    raw = (store / path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    data = raw[8 + length :]
    return {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}


def container(
    parts: Sections,
    *,
    metadata: object = None,
    change: Callable[[Document], object] = lambda _: None,
    tail: bytes = b"",
) -> bytes:
    """A container of these sections; `change` may spoil its header."""
    header: Document = {"__metadata__": metadata or {"format": "taskstore"}}
    position = 0
    for name, raw in parts.items():
        offsets = [position, position + len(raw)]
        header[name] = {"dtype": "U8", "shape": [len(raw)], "data_offsets": offsets}
        position += len(raw)
    change(header)
    return join(json.dumps(header).encode(), b"".join(parts.values()) + tail)


def join(header: bytes, data: bytes) -> bytes:
    """Length, header padded to a multiple of 64 in the file, data."""
    header += b" " * (-(8 + len(header)) % 64)
    return struct.pack("<Q", len(header)) + header + data


def section(lengths: list[int], payload: bytes, *, padding: bytes | None = None) -> bytes:
    """A section of a table and a payload, padded to a multiple of 64."""
    raw = struct.pack(f"<{len(lengths)}I", *lengths) + payload
    return raw + (bytes(-len(raw) % 64) if padding is None else padding)


def put_section(store: Path, path: str, name: str, raw: bytes) -> None:
    """Replace one section of a container, keeping everything else."""
    parts: Mapping[str, bytes] = {**sections(store, path), name: raw}
    replace_file(store, path, container(dict(parts)))


def swap_chunks(store: Path, path: str, name: str, chunks: int) -> None:
    """Exchange the first two chunks of a section and make the checksums of its file fit.

    It decodes as before, to other values: only the checksums of rebuilt tensors tell.
    """
    raw = sections(store, path)[name]
    for streams in range(1, 9):
        lengths = list(struct.unpack_from(f"<{chunks * streams}I", raw))
        payload, size = raw[4 * len(lengths) :], sum(lengths)
        if 0 <= len(payload) - size < 64 and not any(payload[size:]):
            break
    else:
        raise AssertionError(f"{name!r} of {path} has not {chunks} chunks")
    first, second = lengths[:streams], lengths[streams : 2 * streams]
    one, two = sum(first), sum(first) + sum(second)
    swapped = payload[one:two] + payload[:one] + payload[two:size]
    assert swapped != payload[:size], f"the first two chunks of {name!r} of {path} are equal"
    put_section(store, path, name, section([*second, *first, *lengths[2 * streams :]], swapped))


def forge_asset(store: Path, digest: str, raw: bytes) -> None:
    """Put another content where an asset was, and make the checksum of its file fit."""
    replace_file(store, f"assets/{digest}", raw)

    def change(document: Document) -> None:
        document["assets"][digest] = {"bytes": len(raw), "stored": "raw"}

    edit(store, change)
