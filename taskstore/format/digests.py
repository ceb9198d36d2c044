"""BLAKE3 of whole files, read in blocks, several at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from blake3 import blake3

from taskstore.errors import ChecksumMismatch, FormatError
from taskstore.executors import ordered_map
from taskstore.format.manifest import File

BLOCK = 4 << 20


def file_digest(path: Path) -> File:
    """Size and checksum of one file; raises OSError."""
    state, size = blake3(), 0
    buffer = memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(buffer):
            state.update(buffer[:got])
            size += got
    return File(bytes=size, blake3=state.hexdigest())


def file_digests(root: Path, paths: Iterable[str], jobs: int) -> dict[str, File]:
    """path -> size and checksum, for paths below `root`."""
    names = list(paths)
    return dict(
        zip(names, ordered_map(lambda p: file_digest(root / p), names, jobs=jobs), strict=True)
    )


def check_file(root: Path, path: str, recorded: File) -> None:
    """Raise FormatError or ChecksumMismatch unless the file is the recorded one."""
    full = root / path
    try:
        size = os.stat(full).st_size
        if size != recorded.bytes:
            raise FormatError(
                f"{path} has {size} bytes where the manifest records {recorded.bytes}"
            )
        found = file_digest(full)
    except FileNotFoundError:
        raise FormatError(f"{path} is missing from the store") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from None
    if found.blake3 != recorded.blake3:
        raise ChecksumMismatch(path, recorded.blake3, found.blake3)


def check_files(root: Path, recorded: Mapping[str, File], paths: Iterable[str], jobs: int) -> None:
    """`check_file` for several at a time."""
    for _ in ordered_map(lambda p: check_file(root, p, recorded[p]), paths, jobs=jobs):
        pass


def model_digest(checksums: Mapping[str, str]) -> str:
    """One figure for a model, from its tensors' checksums: BLAKE3 of lines "NAME CHECKSUM"."""
    lines = (f"{name} {checksums[name]}\n" for name in sorted(checksums))
    return blake3("".join(lines).encode()).hexdigest()
