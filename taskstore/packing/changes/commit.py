"""Change a store in its folder: new files beside the old ones, then the manifest; SPEC.md 8.

No file that a manifest lists is ever rewritten, so whoever has the store open reads on. What only
older manifests list is removed here when nobody reads those any more, else by `collect` later.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from taskstore.errors import OutputError
from taskstore.format import manifest as m
from taskstore.format import manifest_file
from taskstore.format.manifest_file import OLD
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations import dry, leases, mounts, ownership, publish, transfer
from taskstore.locations.remote import mirror
from taskstore.locations.scratch import scratch
from taskstore.packing.changes.history import with_change
from taskstore.packing.elsewhere.sending import bucket, put_store
from taskstore.packing.only_writer import place_of
from taskstore.store import Store
from taskstore.store import open as open_store
from taskstore.store.card import seal
from taskstore.store.contents import files_of

COPY = ".copy.json"


@contextmanager
def staged(store: Store) -> Iterator[Path]:
    """Yield an empty folder for the new files of a store, whose writer's lock is held meanwhile."""
    if store.is_elsewhere:
        dry.stop()
        with scratch(store.path) as folder:
            yield folder
        return
    target = place_of(store)
    if dry.on():  # nothing is written there: what would be ends the run
        yield mounts.beside(target, "partial")
        return
    with publish.alone(target), publish.making(target) as partial:
        partial.mkdir()
        yield partial


def commit(
    store: Store,
    folder: Path,
    manifest: m.Manifest,
    what: str,
    tasks: list[str],
) -> Store:
    """Make a manifest the store's, with its new files out of `folder`; returns the new store.

    `store` is what it is made from, and is closed. Raises OutputError for a file of a new name that
    is there and is not the store's.
    """
    dry.stop()
    target = place_of(store)
    address = mirror.address_of(store.where)
    if address is not None:
        seen = (store.path / MANIFEST).read_bytes()
        changed = with_change(manifest, store.version, what, tasks)
        put_store(bucket(address), changed, folder, seen)
        store.close()
        return open_store(store.where, base=store.base_path)
    done = seal(folder, with_change(manifest, store.version, what, tasks))
    files = [path for path in done.files if (folder / path).is_file()]
    new = [path for path in files if not _is_there(target, folder, path, done.files[path])]
    publish.sync_all(folder)
    _keep(target, store.version)
    transfer.move(folder, target, new, [CARD] if _is_own_card(store) else [])
    store.close()
    new_store = open_store(store.path, base=store.base_path)
    collect(target)
    return new_store


def _is_there(target: Path, folder: Path, path: str, file: m.File) -> bool:
    """Tell whether the store has a new file already: one that is named by its content."""
    place = target / path
    if not os.path.lexists(place):
        return False
    if place.is_file() and not place.is_symlink() and place.stat().st_size == file.bytes:
        (folder / path).unlink()
        return True
    raise OutputError(
        f"{place} is in the way, and is not something that taskstore wrote: move it away"
    )


def _is_own_card(store: Store) -> bool:
    """Tell whether the card is as a writer made it: one that somebody edited stays."""
    card, listed = store.path / CARD, store.manifest.files.get(CARD)
    if not os.path.lexists(card):
        return True
    with suppress(OSError):
        if listed is None:
            return ownership.is_sealed(card, ownership.HTML)
        written = {CARD: ownership.Written(bytes=listed.bytes, blake3=listed.blake3)}
        return ownership.holds(store.path, written)
    return False


def _keep(target: Path, version: str) -> None:
    """Give the manifest that is there a second name, by which its files are found later."""
    (target / OLD).mkdir(exist_ok=True)
    with suppress(FileExistsError):
        try:
            os.link(target / MANIFEST, target / OLD / f"{version}.json", follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            shutil.copyfile(target / MANIFEST, target / OLD / f"{version}{COPY}")
    mounts.sync(target / OLD)


def collect(target: Path, *, unknown: bool = False) -> tuple[int, int]:
    """Remove what only manifests that nobody reads list.

    Returns how many bytes are gone, and how many older versions are still in use.

    For the holder of the lock. `unknown`: also where nobody can know whether they are read.
    """
    dry.stop()
    kept = manifest_file.kept(target)
    if not kept:
        return 0, 0
    current, checksum, lease = manifest_file.take(target)
    lease.release()
    held, free = dict[Path, m.Manifest](), dict[Path, m.Manifest]()
    for path, manifest in kept.items():
        here = path.name.split(".")[0] == checksum
        (free if here or _is_free(path, unknown=unknown) else held)[path] = manifest
    needed = {path for manifest in (current, *held.values()) for path in manifest.files}
    needed |= {CARD, MANIFEST}
    gone = {name for manifest in free.values() for name in manifest.files} - needed
    if free:
        dry.note(would_remove=sorted(gone), also=[f"would remove: {name}" for name in sorted(gone)])
        dry.stop()
    size = 0
    for path, manifest in free.items():
        for name, file in manifest.files.items():
            if name in gone:
                size += _removed(target, name, file)
        transfer.remove(target, f"{OLD}/{path.name}")
    with suppress(OSError):
        (target / OLD).rmdir()
    return size, len(held)


def _is_free(path: Path, *, unknown: bool) -> bool:
    held = None if path.name.endswith(COPY) else leases.is_held(path)
    return unknown if held is None else not held


def _removed(target: Path, name: str, file: m.File) -> int:
    """Remove a file that is as it was listed; returns its bytes."""
    with suppress(OSError):
        place = target / name
        if place.is_file() and not place.is_symlink() and place.stat().st_size == file.bytes:
            transfer.remove(target, name)
            return 0 if os.path.lexists(place) else file.bytes
    return 0


def kept_of(manifest: m.Manifest, tasks: list[str]) -> m.Manifest:
    """Return a manifest of some of its tasks, with the files and assets that they need."""
    left = {name: manifest.tasks[name] for name in tasks}
    done = msgspec.structs.replace(manifest, tasks=left)
    listed = [*files_of(done, None, *left), *([CARD] if CARD in manifest.files else [])]
    kept = dict.fromkeys(listed)
    return msgspec.structs.replace(
        done,
        vectors=manifest.vectors and manifest.vectors.of(left),
        assets={d: a for d, a in manifest.assets.items() if f"assets/{d}" in kept},
        files={path: manifest.files[path] for path in kept},
    )
