"""Tell what taskstore wrote in a folder from everything else, which it never deletes.

A store's manifest lists its files. A model's folder lists its own in a hidden file, written last. A
file that no list names is not ours, nor is a link, nor a file that has changed since it was listed:
another size, other content, or for a large file another time of change. A single file that is not
of a kind of its own, as a page or a plot, carries the checksum of its text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import msgspec
from blake3 import blake3

from taskstore.locations.files import open_regular, read_regular
from taskstore.locations.mounts import entries

NOTE = ".taskstore-files.json"
SMALL = 1 << 20  # bytes: up to here a file's content is compared, not its time
MAX_NOTE = 16 << 20
MAX_SEALED = 256 << 20
_BLOCK = 4 << 20
HTML = "<!-- taskstore wrote this: %s -->\n"
JSON = ', "written_by_taskstore": "%s"}\n'


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a file was when it was written; `changed` is its time of change in nanoseconds."""

    bytes: int
    blake3: str | None = None
    changed: int | None = None


class _Note(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    written_by_taskstore: dict[str, Written]


def foreign(folder: Path, written: Mapping[str, Written], *, whole: bool = False) -> list[str]:
    """Return the files below a folder that are not as `written` lists them, by name; sorted.

    `whole`: the content of large files is compared, too. Raises OSError.
    """
    return [
        name
        for name, path in _files(folder)
        if name not in written or not _is(path, written[name], whole=whole)
    ]


def holds(folder: Path, written: Mapping[str, Written]) -> bool:
    """Tell whether all files of a list are in a folder, to the last bit."""
    try:
        return all(_is(folder / name, listed, whole=True) for name, listed in written.items())
    except OSError:
        return False


def write_note(folder: Path) -> None:
    """List all files of a folder that was just written in its note."""
    files = {name: _seen(path) for name, path in _files(folder) if name != NOTE}
    text = msgspec.json.format(msgspec.json.encode(_Note(written_by_taskstore=files)), indent=1)
    (folder / NOTE).write_bytes(text + b"\n")


def read_note(folder: Path) -> dict[str, Written] | None:
    """Return what a folder's note lists, and the note; None where none can be read."""
    try:
        raw = read_regular(folder / NOTE, MAX_NOTE, folder)
        listed = msgspec.json.decode(raw, type=_Note).written_by_taskstore
    except (OSError, ValueError, RecursionError):  # of msgspec, too
        return None
    return {**listed, NOTE: Written(bytes=len(raw), blake3=blake3(raw).hexdigest())}


def not_noted(folder: Path) -> list[str]:
    """Return what a folder holds beside the files that its note lists."""
    return foreign(folder, read_note(folder) or {})


def sealed(text: str, end: str) -> str:
    """Append an end, HTML or JSON, that holds the checksum of a text."""
    return text + end % blake3(text.encode()).hexdigest()


def is_sealed(path: Path, end: str) -> bool:
    """Tell whether a file is what `sealed` made and nobody changed; raises OSError."""
    if path.stat().st_size > MAX_SEALED:
        return False
    return is_whole(read_regular(path, MAX_SEALED), end)


def is_whole(raw: bytes, end: str) -> bool:
    """Tell the same of a file's bytes."""
    text = raw[: -len(end % ("0" * 64))]
    return bool(text) and raw == text + (end % blake3(text).hexdigest()).encode()


def _files(folder: Path) -> list[tuple[str, Path]]:
    """List everything below a folder but folders themselves; a link is not followed."""
    found: list[tuple[str, Path]] = []
    top = set(entries(folder))
    for root, folders, names in os.walk(folder, onerror=_raise):
        if root == os.fspath(folder):
            folders[:], names = (
                [name for name in listed if name in top] for listed in (folders, names)
            )
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        paths = (Path(root, name) for name in (*names, *links))
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise error


def _seen(path: Path) -> Written:
    status = path.lstat()
    if status.st_size > SMALL:
        return Written(bytes=status.st_size, changed=status.st_mtime_ns)
    return Written(bytes=status.st_size, blake3=_digest(path))


def _is(path: Path, listed: Written, *, whole: bool) -> bool:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != listed.bytes:
        return False
    if listed.blake3 is not None and (whole or listed.bytes <= SMALL):
        return _digest(path) == listed.blake3
    # Some file systems keep whole seconds only.
    times: Iterable[int] = (listed.changed or 0, (listed.changed or 0) // 10**9 * 10**9)
    return not whole and (listed.changed is None or status.st_mtime_ns in times)


def _digest(path: Path) -> str:
    state, left = blake3(), path.lstat().st_size
    with open(open_regular(path), "rb", buffering=0) as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            state.update(block)
            left -= len(block)
    return state.hexdigest()
