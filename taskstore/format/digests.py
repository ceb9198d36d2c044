"""Digest whole files with BLAKE3, in blocks, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

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
    root: Path,
    recorded: Mapping[str, File],
    paths: Iterable[str],
    executor: Executor,
    stopped: Callable[[], bool] = bool,
) -> None:
    """Check files as `check_file` does, several at a time, and begin no more once `stopped`."""
    units = [(path, recorded[path]) for path in paths]
    for _ in executor.map(_check_below, (root, stopped), units):
        pass


def _check_below(shared: tuple[Path, Callable[[], bool]], unit: tuple[str, File]) -> None:
    root, stopped = shared
    if not stopped():
        check_file(root, *unit)


@contextmanager
def meanwhile(check: Callable[[Callable[[], bool]], None]) -> Iterator[Callable[[], None]]:
    """Run a check of files while the block reads them; yields what waits for it, and raises for it.

    `check` is given what says that nobody waits any more. Where the block fails for a damaged file,
    what the check says of that file is raised.
    """
    stopped = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="taskstore-check") as pool:
        found = pool.submit(check, stopped.is_set)
        try:
            yield found.result
        except (FormatError, ChecksumMismatch):
            found.result()
            raise
        finally:
            stopped.set()


def model_digest(checksums: Mapping[str, str]) -> str:
    """Digest a model by its tensors' checksums: BLAKE3 of lines "NAME CHECKSUM"."""
    lines = (f"{name} {checksums[name]}\n" for name in sorted(checksums))
    return blake3("".join(lines).encode()).hexdigest()
