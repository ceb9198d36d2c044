"""Digest whole files with BLAKE3, in blocks, several at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from blake3 import blake3

from taskstore.errors import ChecksumMismatch, FormatError
from taskstore.executors import Executor
from taskstore.format.manifest import File
from taskstore.locations.files import open_regular

BLOCK = 4 << 20


def file_digest(path: Path, root: Path | None = None) -> File:
    """Return size and checksum of one file; raises OSError, also for a link that leaves `root`."""
    state, size = blake3(), 0
    buffer = memoryview(bytearray(BLOCK))
    with open(open_regular(path, root), "rb", buffering=0) as file:
        declared = os.fstat(file.fileno()).st_size
        while size <= declared and (got := file.readinto(buffer)):
            state.update(buffer[:got])
            size += got
    return File(bytes=size, blake3=state.hexdigest())


def file_digests(root: Path, paths: Iterable[str], executor: Executor) -> dict[str, File]:
    """Return path -> size and checksum, for paths below `root`."""
    return dict(executor.map(_digest_below, root, paths))


def _digest_below(root: Path, path: str) -> tuple[str, File]:
    return path, file_digest(root / path)


def check_file(root: Path, path: str, recorded: File) -> None:
    """Raise FormatError or ChecksumMismatch unless the file is the recorded one."""
    full = root / path
    try:
        size = os.stat(full).st_size
        if size != recorded.bytes:
            raise FormatError(
                f"{path} has {size} bytes where the manifest records {recorded.bytes}"
            )
        found = file_digest(full, root)
    except FileNotFoundError:
        raise FormatError(f"{path} is missing from the store") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if found.blake3 != recorded.blake3:
        raise ChecksumMismatch(path, recorded.blake3, found.blake3)


def check_files(
    root: Path, recorded: Mapping[str, File], paths: Iterable[str], executor: Executor
) -> None:
    """Check files as `check_file` does, several at a time."""
    for _ in executor.map(_check_below, root, [(path, recorded[path]) for path in paths]):
        pass


def _check_below(root: Path, unit: tuple[str, File]) -> None:
    check_file(root, *unit)


def model_digest(checksums: Mapping[str, str]) -> str:
    """Digest a model by its tensors' checksums: BLAKE3 of lines "NAME CHECKSUM"."""
    lines = (f"{name} {checksums[name]}\n" for name in sorted(checksums))
    return blake3("".join(lines).encode()).hexdigest()
