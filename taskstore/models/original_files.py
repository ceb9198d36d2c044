"""Keep of weight files what their tensors do not tell: names, headers, index."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from taskstore.errors import BadName, CheckpointError, FormatError
from taskstore.format.manifest import MAX_ASSET
from taskstore.format.names import check_index_name, check_shard_name
from taskstore.locations.base import OpenFile
from taskstore.locations.files import LocalFile, read_regular

BLOCK = 4 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file: its bytes before the data, and the BLAKE3 of all of it."""

    name: str
    size: int
    head: Callable[[], bytes]
    digest: Callable[[], str]  # may read the whole file


@dataclass(frozen=True)
class Originals:
    """Weight files in the order of their names, and the index by its name, if there is one."""

    files: Sequence[WeightFile]
    index: Mapping[str, Callable[[], bytes]]


def weight_file(file: OpenFile, path: Path) -> WeightFile:
    """Describe a file that was opened and whose header is good; its name is the path's."""
    before = os.fstat(file.fd) if isinstance(file, LocalFile) else None

    def head() -> bytes:
        length = int.from_bytes(file.read(0, 8), "little")
        return file.read(0, 8 + length)

    def digest() -> str:
        if not isinstance(file, LocalFile) or before is None:
            return _digest(file)
        state, buffer, at = blake3(), memoryview(bytearray(BLOCK)), 0
        while at <= before.st_size and (got := os.preadv(file.fd, [buffer], at)):
            state.update(buffer[:got])
            at += got
        now = os.fstat(file.fd)
        if at != before.st_size or now.st_mtime_ns != before.st_mtime_ns:
            raise CheckpointError(path, "has changed while it was packed; pack again")
        return state.hexdigest()

    return WeightFile(path.name, file.size, _telling(path, head), _telling(path, digest))


def _digest(file: OpenFile) -> str:
    """Digest a file that is elsewhere: what was hashed while it was read, and the rest."""
    hashed = getattr(file, "digest", None)
    if hashed is not None:
        return str(hashed())
    state = blake3()
    for begin in range(0, file.size, BLOCK):
        state.update(file.read(begin, min(BLOCK, file.size - begin)))
    return state.hexdigest()


def of_files(files: Sequence[WeightFile], index: Path | None) -> Originals | None:
    """Return the originals; None where a store could not write files of these names again."""
    try:
        for file in files:
            check_shard_name(file.name)
        if index is not None:
            check_index_name(index.name)
            if index.stat().st_size > MAX_ASSET:
                return None
    except BadName:
        return None
    content: dict[str, Callable[[], bytes]] = {}
    if index is not None:
        content[index.name] = _telling(index, partial(read_regular, index, MAX_ASSET, index.parent))
    return Originals(sorted(files, key=lambda file: file.name), content)


def _telling(path: Path, read: Callable[[], T]) -> Callable[[], T]:
    """Wrap `read` so that what it raises names the path."""

    def telling() -> T:
        try:
            return read()
        except OSError as error:
            raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
        except FormatError as error:
            raise CheckpointError(path, str(error)) from None

    return telling
