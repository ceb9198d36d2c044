"""Read the manifest of a store's folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from blake3 import blake3

from taskstore.errors import FormatError, NewerVersion, TaskstoreError
from taskstore.format.manifest import (
    MAX_BYTES,
    Manifest,
    checksum_of,
    from_bytes,
    is_whole,
    to_bytes,
)
from taskstore.format.names import CARD, MANIFEST, WEIGHT_FILES
from taskstore.format.validate import check
from taskstore.locations import leases, ownership
from taskstore.locations.base import PathLike
from taskstore.locations.files import below, read_regular
from taskstore.locations.leases import Lease
from taskstore.locations.publish import recover
from taskstore.locations.remote import mirror
from taskstore.locations.remote.addresses import location

OLD = ".taskstore.old"  # in a store: older manifests, by their checksums
_in_use: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()  # by BLAKE3 of their bytes


def _way_out(path: Path) -> str:
    """Say what to do with a model, or a store that lost its manifest; it may go meanwhile."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return _said_of(path)
    return ""


def _said_of(path: Path) -> str:
    if (path / "tasks").is_dir() and any(path.glob("tasks/*/*.safetensors")):
        alone = any(below(path / OLD))
        older = f", `taskstore repair {path}` as it was before the last change" if alone else ""
        return f"; `taskstore repair {path} --from COPY` puts it back from a copy{older}"
    model = path.name.endswith(WEIGHT_FILES) or any(path.glob("*config.json"))
    return (
        "; it is a model: make a store with `taskstore pack BASE MODEL... -o STORE`"
        if model
        else ""
    )


def read(folder: Path) -> Manifest:
    """Read and check the manifest of a store folder."""
    manifest, _, lease = take(folder)
    lease.release()
    return manifest


def take(folder: Path) -> tuple[Manifest, str, Lease]:
    """Read and check a manifest; returns its checksum too, and a lease on the files it lists."""
    path = folder / MANIFEST
    try:
        lease, raw = leases.take(path, MAX_BYTES, folder)
    except FileNotFoundError:
        what = "there is no such folder" if not folder.exists() else f"it holds no {MANIFEST}"
        raise FormatError(f"{folder} is not a taskstore store: {what}{_way_out(folder)}") from None
    except NotADirectoryError:
        what = f"it is not a folder{_way_out(folder)}"
        raise FormatError(f"{folder} is not a taskstore store: {what}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read as a manifest: {error.strerror}") from None
    try:
        return _checked(raw), checksum_of(raw), lease
    except FormatError as error:
        if is_whole(raw) or isinstance(error, NewerVersion):
            raise  # it was written so
        error.args = (f"{error}{_way_out(folder)}",)
        raise


def write(folder: Path, manifest: Manifest) -> None:
    """Check a manifest and write it; raises FormatError, or InputError for one that is too large.

    Whoever reads it next, while it is in use, need not parse it.
    """
    check(manifest)
    raw = to_bytes(manifest)
    (folder / MANIFEST).write_bytes(raw)
    _in_use[blake3(raw).digest()] = manifest


def kept(folder: Path) -> dict[Path, Manifest]:
    """Read the older manifests that a store keeps for their readers; a broken one says nothing."""
    found = {}
    for path in sorted(p for p in below(folder / OLD) if p.suffix == ".json"):
        with suppress(FormatError, OSError):
            found[path] = _checked(read_regular(path, MAX_BYTES, folder))
    return found


def is_store(where: PathLike) -> bool:
    """Tell whether a manifest is at a path, or at an address; raises OSError."""
    address = mirror.address_of(where)
    if address:
        return mirror.manifest_at(location(address)) is not None
    recover(folder := Path(where))
    return (folder / MANIFEST).is_file()


def bytes_of(folder: Path, manifest: Manifest) -> int:
    """Return the bytes of a manifest's file, which may have gone since it was read."""
    try:
        return (folder / MANIFEST).stat().st_size
    except FileNotFoundError:
        return len(to_bytes(manifest))


def not_of_a_store(folder: Path) -> list[str]:
    """Return what a folder holds beside a store's files as they were written; see `ownership`.

    Of weights sizes are compared: nobody edits them, and damage is told by whoever reads them.
    """
    try:
        files = dict(read(folder).files)
        size = (folder / MANIFEST).lstat().st_size
    except TaskstoreError:
        return ownership.foreign(folder, {})
    old = kept(folder)
    for older in old.values():
        files = {**{p: f for p, f in older.files.items() if p != CARD}, **files}
    written = {
        path: ownership.Written(bytes=file.bytes, blake3=file.blake3 if path == CARD else None)
        for path, file in files.items()
    }
    own = {MANIFEST: ownership.Written(bytes=size)}
    own |= {
        path.relative_to(folder).as_posix(): ownership.Written(bytes=path.lstat().st_size)
        for path in old
    }
    card = folder / CARD
    with suppress(OSError):
        if CARD not in files and ownership.is_sealed(card, ownership.HTML):
            own[CARD] = ownership.Written(bytes=card.lstat().st_size)
    return ownership.foreign(folder, {**written, **own})


def _checked(raw: bytes) -> Manifest:
    """Parse and check a manifest; one of the same bytes that is in use is taken for it."""
    key = blake3(raw).digest()
    found = _in_use.get(key)
    if found is None:
        found = from_bytes(raw)
        check(found)
        _in_use[key] = found
    return found
