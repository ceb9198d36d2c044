"""Read the manifest of a store's folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from blake3 import blake3

from taskstore.errors import FormatError, NewerVersion
from taskstore.format.manifest import (
    MAX_BYTES,
    Manifest,
    checksum_of,
    from_bytes,
    is_whole,
    to_bytes,
)
from taskstore.format.names import MANIFEST, WEIGHT_FILES
from taskstore.format.validate import check
from taskstore.locations import leases
from taskstore.locations.files import read_regular
from taskstore.locations.leases import Lease

OLD = ".taskstore.old"  # in a store: older manifests, by their checksums
_in_use: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()  # by BLAKE3 of their bytes


def _way_out(path: Path) -> str:
    """Say what to do with a model, or a store that lost its manifest."""
    if (path / "tasks").is_dir() and any(path.glob("tasks/*/*.safetensors")):
        alone = any((path / OLD).glob("*.json"))
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
    for path in sorted((folder / OLD).glob("*.json")):
        with suppress(FormatError, OSError):
            found[path] = _checked(read_regular(path, MAX_BYTES, folder))
    return found


def _checked(raw: bytes) -> Manifest:
    """Parse and check a manifest; one of the same bytes that is in use is taken for it."""
    key = blake3(raw).digest()
    found = _in_use.get(key)
    if found is None:
        found = from_bytes(raw)
        check(found)
        _in_use[key] = found
    return found
