"""Models on this machine: their names, and what the local cache of a hub says about a folder."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.locations.files import absolute, read_regular
from taskstore.locations.publish import recover
from taskstore.locations.remote.addresses import parse

# files of weights that are named like those of any other model
_USUAL = re.compile(r"(model|pytorch_model|adapter_model|consolidated)\b.*", re.ASCII)
_HUB_CACHE = re.compile(r"models--(?P<id>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})$")


def locate(model: str | os.PathLike[str]) -> tuple[Path, str, str | None]:
    """Return local path, source and revision of a model that is on this machine.

    A folder of the hub's cache has the id of its repository as source, and its commit as revision.
    Raises CheckpointError for what is not there.
    """
    path = absolute(os.path.expanduser(model))
    try:
        recover(path)
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(repr(model)[:200], f"is no path: {why}") from None
    if not there:
        raise CheckpointError(model, "there is no such folder or file")
    meant = _newest(path)
    found = _snapshot(meant)
    if found:
        return meant, found["id"].replace("--", "/", 1), found["revision"]
    return meant, str(meant), None


def name_of(model: str | os.PathLike[str]) -> str:
    """Return how a model is called: after its folder, or its repository on or of the hub.

    A weight file has the name of its folder where its own says nothing.
    """
    address = parse(model)
    if address is not None:
        return address.name
    path = absolute(os.path.expanduser(model))
    if os.path.isfile(path):
        if not _USUAL.fullmatch(path.name):
            return path.stem
        path = path.parent
    if path.name == "snapshots":
        path = path.parent
    try:
        found, own = _snapshot(path), path.resolve().name
    except (OSError, ValueError):  # a name that no file can have
        return path.name
    own = own.split("--", 1)[-1].split("--", 1)[-1] if own.startswith("models--") else own
    return found["id"].split("--", 1)[-1] if found else own


def _newest(path: Path) -> Path:
    """Return the snapshot that a repository's folder in the cache means: of `main`, or the only."""
    root = path.parent if path.name == "snapshots" else path
    if not root.resolve().name.startswith("models--") or not (root / "snapshots").is_dir():
        return path
    snapshots = sorted(p for p in (root / "snapshots").iterdir() if p.is_dir())
    with suppress(OSError, ValueError):
        main = root / "snapshots" / read_regular(root / "refs" / "main", 200).decode().strip()
        if main in snapshots:
            return main
    if len(snapshots) == 1:
        return snapshots[0]
    names = f"name one: {', '.join(map(str, snapshots[:8]))}" if snapshots else "hf download it"
    raise CheckpointError(
        path, f"holds {len(snapshots)} snapshots of a repository of the hub, none is main; {names}"
    )


def _snapshot(path: Path) -> re.Match[str] | None:
    """Match a snapshot of the hub's cache, or a link to one."""
    return _HUB_CACHE.search(path.as_posix()) or _HUB_CACHE.search(path.resolve().as_posix())
