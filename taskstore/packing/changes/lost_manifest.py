"""Put back the manifest of a store, where it is damaged or gone: from a copy, or an older one.

Of a copy most files of tasks must be in the store as it lists them, or it is another store's. An
older manifest is one that the store keeps for its readers, all of whose files are there. The one
with most tasks wins, and of these the last: a task that it lacks may go with the next change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from taskstore.errors import FormatError, InputError, NewerVersion, TaskstoreError
from taskstore.executors import Executor
from taskstore.format import manifest_file
from taskstore.format.digests import check_file
from taskstore.format.manifest import MAX_BYTES, Manifest, is_whole
from taskstore.format.manifest_file import is_store
from taskstore.format.names import CARD, MANIFEST
from taskstore.locations import dry, mounts, publish
from taskstore.locations.base import PathLike
from taskstore.locations.files import read_regular


def put_back(store: PathLike, sources: Sequence[PathLike], executor: Executor) -> str | None:
    """Put a manifest in its place; returns what it is, None where the one there is good.

    Raises what reading the store raises where nothing is found, and InputError for copies that are
    not of this store.
    """
    target = Path(os.path.realpath(store))
    if _damage(target) is None:
        return None
    with publish.alone(target):  # which ends the change of a writer that was killed
        damage = _damage(target)
        if damage is None:
            return None
        copies = [Path(source) for source in sources if is_store(Path(source))]
        for path, manifest, what in _candidates(target, copies, executor):
            dry.note(would_put_back=str(path), also=[f"would put back: {MANIFEST}, {what}"])
            dry.stop()
            _write(target, path)
            return f"{what}, of {len(manifest.tasks)} tasks: {', '.join(manifest.tasks)}"
        if copies:
            raise InputError(
                f"{damage}; and {', '.join(map(str, copies))} is no copy of it: most files of "
                "tasks that a copy lists must be there, byte for byte"
            )
        if sources:
            raise InputError(f"{damage}; and {', '.join(map(str, sources))} is no store")
        raise damage


def _damage(target: Path) -> FormatError | None:
    """Return what is wrong with a manifest, if it can be put back: not if it was written so."""
    path = target / MANIFEST
    try:
        manifest_file.read(target)
    except NewerVersion:
        raise
    except FormatError as error:
        with suppress(OSError):
            if is_whole(read_regular(path, MAX_BYTES, target)):
                raise
        if not target.is_dir() or not any(target.glob("tasks/*/*.safetensors")):
            raise
        return error
    return None


def _candidates(
    target: Path, copies: Sequence[Path], executor: Executor
) -> Iterator[tuple[Path, Manifest, str]]:
    """Yield files that may be the manifest, the most tasks first, and what they are."""
    found = [*_copies(target, copies, executor), *_older(target, executor)]
    yield from sorted(found, key=lambda one: _rank(one[1]), reverse=True)


def _copies(
    target: Path, copies: Sequence[Path], executor: Executor
) -> Iterator[tuple[Path, Manifest, str]]:
    for copy in copies:
        try:
            manifest = manifest_file.read(copy)
        except FormatError as error:
            raise InputError(f"{copy} is no copy to mend from: {error}") from None
        own = [path for path in manifest.files if path.startswith("tasks/")]
        good = [ok for ok in executor.map(_is_there, (target, manifest), own) if ok]
        if good and 2 * len(good) >= len(own):
            yield copy / MANIFEST, manifest, f"from {copy}"


def _older(target: Path, executor: Executor) -> Iterator[tuple[Path, Manifest, str]]:
    for path, manifest in manifest_file.kept(target).items():
        files = [name for name in manifest.files if name != CARD]
        if all(executor.map(_is_there, (target, manifest), files)):
            yield path, manifest, "as it was before the last change"


def _rank(manifest: Manifest) -> tuple[int, str, int]:
    changes = manifest.history or []
    return len(manifest.tasks), changes[-1].when if changes else "", len(changes)


def _is_there(shared: tuple[Path, Manifest], path: str) -> bool:
    target, manifest = shared
    try:
        check_file(target, path, manifest.files[path])
    except TaskstoreError:
        return False
    return True


def _write(target: Path, source: Path) -> None:
    with publish.making(target) as partial:
        partial.mkdir()
        (partial / MANIFEST).write_bytes(read_regular(source, MAX_BYTES, source.parent))
        publish.sync_all(partial)
        os.replace(partial / MANIFEST, target / MANIFEST)
        mounts.sync(target)
