"""Open each file of a folder once, however many read it: tasks of a chain read one another's."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from threading import Lock

from taskstore.locations.base import OpenFile, PathLike
from taskstore.locations.files import LocalFolder

Key = tuple[str, int, int, int]  # name, device, inode, size: a file in its place is another one


class SharedFolder(LocalFolder):
    """A folder on this machine whose open files are shared; thread-safe."""

    def __init__(self, root: PathLike) -> None:
        super().__init__(root)
        self._lock = Lock()
        self._files: dict[Key, tuple[OpenFile, int]] = {}  # and how many readers it has

    def open(self, name: str) -> OpenFile:
        there = os.stat(self._path(name))
        key = (name, there.st_dev, there.st_ino, there.st_size)
        with self._lock:
            file, readers = self._files.get(key) or (super().open(name), 0)
            self._files[key] = file, readers + 1
        return _Held(file, partial(self._let_go, key))

    def _let_go(self, key: Key) -> None:
        with self._lock:
            file, readers = self._files.pop(key)
            if readers > 1:
                self._files[key] = file, readers - 1
            else:
                file.close()


class _Held:
    """A file that others may read too, until this reader closes it."""

    def __init__(self, file: OpenFile, let_go: Callable[[], None]) -> None:
        self.size, self.read = file.size, file.read
        self._let_go: Callable[[], None] | None = let_go

    def close(self) -> None:
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()
