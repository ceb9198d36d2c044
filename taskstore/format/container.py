"""Read and write containers: safetensors files of a store, rows of uint8 sections (SPEC.md 2).

Writing streams: how long a section gets is known only when it is coded, so the header's room is
reserved from an upper bound, filled with spaces, and written last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from taskstore.errors import FormatError
from taskstore.format import header
from taskstore.locations.base import Location
from taskstore.locations.files import write_all, write_all_at
from taskstore.locations.flush import Flusher

ALIGN = 64
METADATA = {"format": "taskstore"}


class ContainerReader:
    """An open container; `entries` are its sections. Reads are positioned and thread-safe."""

    def __init__(self, location: Location, name: str, size: int) -> None:
        """`size` is what the manifest records. Raises FormatError for anything else."""
        self.label = name
        try:
            self._file = location.open(name)
        except OSError as error:
            raise FormatError(f"{name} cannot be opened: {error.strerror}") from None
        try:
            if self._file.size != size:
                raise FormatError(
                    f"{name} has {self._file.size} bytes where the manifest records {size}"
                )
            self.entries = self._sections()
        except BaseException:
            self._file.close()
            raise

    def _sections(self) -> dict[str, header.Place]:
        try:
            entries, metadata = header.read(self._file, {"U8": 1})
        except header.BadHeader as error:
            raise FormatError(f"{self.label} {error}") from None
        if metadata != METADATA:
            raise FormatError(f"{self.label} is not a container of taskstore")
        for name, entry in entries.items():
            if len(entry.shape) != 1 or entry.begin % ALIGN or entry.end % ALIGN:
                raise FormatError(f"{self.label}: section {name!r} is not aligned to {ALIGN}")
        return entries

    def read(self, begin: int, end: int) -> memoryview:
        """Read bytes [begin, end) of the file, which must lie in it."""
        return memoryview(self._file.read(begin, end - begin))

    def close(self) -> None:
        self._file.close()


class ContainerWriter:
    """Writes the named sections, in that order, one after the other."""

    def __init__(self, path: Path, names: Sequence[str], bound: int) -> None:
        """`bound`: no file with these sections is longer than that, header not counted."""
        widest = dict.fromkeys(names, ("U8", (bound,), bound, bound))
        self._reserved = len(header.render(widest, METADATA, ALIGN))
        self._names = list(names)
        self._spans: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        self._position = self._reserved
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.lseek(self._fd, self._position, os.SEEK_SET)
        self._flusher = Flusher(self._fd)

    def begin(self, name: str, table: int) -> None:
        """Start section `name`, leaving room for `table` bytes in front of its payload."""
        assert name == self._names[len(self._spans)], f"{name} out of order"
        self._name, self._start = name, self._position
        if table:
            self.append(bytes(table))

    def append(self, data: bytes) -> None:
        write_all(self._fd, data)
        self._position += len(data)
        self._flusher.written_to(self._position)

    def end(self, table: bytes) -> None:
        """Finish the section: pad it and fill in its table."""
        padding = -self._position % ALIGN
        if padding:
            self.append(bytes(padding))
        if table:
            write_all_at(self._fd, table, self._start)
        begin, end = self._start - self._reserved, self._position - self._reserved
        self._spans[self._name] = ("U8", (end - begin,), begin, end)

    def finish(self) -> None:
        """Write the header, flush to disk, close."""
        assert list(self._spans) == self._names, "a section was announced and not written"
        raw = header.render(self._spans, METADATA, ALIGN, self._reserved)
        assert len(raw) == self._reserved
        write_all_at(self._fd, raw, 0)
        os.fsync(self._fd)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
