"""Use local folders as a location; write at an offset.

A link is followed to a file below the same folder, or to a blob of the same repository in a hub's
cache. One that leads elsewhere is refused: it may name a file that is nobody's to give away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from taskstore.errors import BadName, ChangedMeanwhile, FormatError
from taskstore.locations.base import OpenFile, PathLike

COPY_BLOCK = 1 << 20
TRIES = 50  # to open a file that others replace meanwhile
_SHARED = ".huggingface-shared-blobs"  # a file in the blobs that all repositories of a cache share
PARTIAL = ".partial"  # a file that is being written, or was when its writer died


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def write_all_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def below(root: PathLike) -> Iterator[Path]:
    """Yield the files below a folder that others may be changing; what goes meanwhile is left out.

    A folder that is a link, or may not be read, is not entered.
    """

    def gone(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            raise error

    for here, _, names in os.walk(root, onerror=gone):
        yield from (path for name in names if (path := Path(here, name)).is_file())


def link(path: PathLike, target: PathLike) -> None:
    """Give a file a second name, or copy it where the disk knows none; raises OSError."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def resolve(path: PathLike, folder: PathLike) -> Path:
    """Return where a file of a folder lies; raises OSError for a link that leaves the folder.

    The folder itself may be reached by a link. What comes back has no link in it.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if real.is_relative_to(root) or any(real.is_relative_to(blobs) for blobs in _blobs(root)):
        return real
    raise OSError(
        errno.ELOOP,
        f"it is a link to {real}, outside of its folder; put a copy of the file in its place",
        str(path),
    )


def absolute(path: PathLike) -> Path:
    """Return an absolute path that names what the system would open, without "..".

    A folder before ".." may be a link: its parent is that of where it leads. Other links stay.
    """
    path = Path(path)
    if ".." in path.parts:
        with suppress(OSError, ValueError):  # a name that no file can have is refused later
            whole = path.name == ".."
            path = Path(
                os.path.realpath(path if whole else path.parent), "" if whole else path.name
            )
    return Path(os.path.abspath(path))


def _blobs(root: Path) -> list[Path]:
    """Return where the hub's cache keeps the files of a snapshot, whose folder has links to them.

    These are .../models--ORG--NAME/snapshots/... and .../models--ORG--NAME/blobs, or .../blobs.
    """
    above = (folder.parent for folder in (root, *root.parents))
    homes = [a.parent for a in above if a.name == "snapshots" and a.parent.name[:8] == "models--"]
    shared = [home.with_name("blobs") for home in homes]
    return [home / "blobs" for home in homes] + [s for s in shared if (s / _SHARED).is_file()]


def open_regular(path: PathLike, within: PathLike | None = None) -> int:
    """Open a regular file for reading and return its descriptor, which the caller closes.

    A pipe, a socket or a device is refused at once, and never waited for; so is a link that leaves
    the folder `within`. Raises OSError.
    """
    return _open(path) if within is None else open_plain(resolve(path, within))


def open_plain(real: PathLike) -> int:
    """Open what `resolve` gave, as `open_regular` does; a link put there since is not followed."""
    for _ in range(TRIES):
        fd = _open(real, os.O_NOFOLLOW)
        try:
            plain = os.path.realpath(real) == os.fspath(real)
            if plain and os.path.samestat(os.fstat(fd), os.stat(real)):
                return fd
        except FileNotFoundError:
            plain = True
        os.close(fd)
        if not plain:
            break
    raise OSError(errno.ELOOP, "it was replaced while it was opened", str(real))


def _open(path: PathLike, flags: int = 0) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return fd


def read_regular(path: PathLike, limit: int, within: PathLike | None = None) -> bytes:
    """Read a whole regular file of at most `limit` bytes; its size is looked at first.

    Raises OSError, also where it is larger, or changes its size while it is read, or is a link that
    leaves the folder `within`.
    """
    return read_open(open_regular(path, within), path, limit)


def read_plain(real: PathLike, limit: int) -> bytes:
    """Read what `resolve` gave, as `read_regular` does."""
    return read_open(open_plain(real), real, limit)


def read_open(fd: int, path: PathLike, limit: int) -> bytes:
    """Read an open file whole, as `read_regular` does, and close it."""
    with open(fd, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_shown(limit)}", str(path))
        parts, left = [], size + 1  # one more, to see that it ends
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if left != 1:
        raise OSError(errno.EIO, "it changed while it was read", str(path))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _shown(size: int) -> str:
    units = {1 << 20: "MB", 1 << 10: "KB"}
    return next(
        (f"{size // n} {unit}" for n, unit in units.items() if not size % n), f"{size} bytes"
    )


def copy_regular(source: PathLike, target: PathLike) -> None:
    """Copy the bytes of a file that `resolve` gave, no more than it had when it was opened.

    Raises OSError.
    """
    with open(open_plain(source), "rb", buffering=0) as file, open(target, "wb") as out:
        left = os.fstat(file.fileno()).st_size
        while left and (block := file.read(min(left, COPY_BLOCK))):
            out.write(block)
            left -= len(block)
    if left:
        raise OSError(errno.EIO, "it became shorter while it was copied", str(source))


class LocalFile:
    """A regular file, open for reading."""

    def __init__(self, path: PathLike, within: PathLike | None = None) -> None:
        """Open a file; raises OSError where there is none that can be read, as `open_regular`."""
        self.path = Path(path)
        self.fd = open_regular(path, within)
        self.size = os.fstat(self.fd).st_size

    @property
    def name(self) -> str:
        """A name for a library that opens files itself: of this very file, while it is open."""
        own = f"/proc/self/fd/{self.fd}"
        return own if os.path.exists(own) else os.path.realpath(self.path)

    def read(self, begin: int, count: int) -> bytes:
        raw = os.pread(self.fd, count, begin)
        if len(raw) == count:
            return raw
        parts, got = [raw], len(raw)  # one call reads at most 2 GiB
        while raw and got < count:
            raw = os.pread(self.fd, count - got, begin + got)
            parts.append(raw)
            got += len(raw)
        if got != count:
            raise FormatError(f"{self.path} became shorter while it was read")
        return b"".join(parts)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, root: PathLike) -> None:
        self._root = Path(root)

    def _path(self, name: str) -> Path:
        if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
            raise BadName("name of a file", name, "leaves its location")
        return self._root / name

    def names(self) -> Iterator[str]:
        paths = (path for path in below(self._root) if not path.match(f".*{PARTIAL}"))
        yield from sorted(path.relative_to(self._root).as_posix() for path in paths)

    def open(self, name: str) -> OpenFile:
        return LocalFile(self._path(name), self._root)

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.urandom(8).hex()}{PARTIAL}")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def put_if_unchanged(self, name: str, data: bytes, seen: bytes | None) -> None:
        path = self._path(name)
        self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # other writers of this folder wait
            if not _holds(path, seen):
                raise ChangedMeanwhile(f"{path} was changed by another writer; read it again")
            self.put(name, data)
        finally:
            os.close(fd)

    def delete(self, name: str) -> None:
        with suppress(NotADirectoryError):
            self._path(name).unlink(missing_ok=True)


def _holds(path: Path, seen: bytes | None) -> bool:
    """Tell whether a file has this content; None: whether there is none."""
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        return seen is not None and size == len(seen) and read_regular(path, size) == seen
    return seen is None
