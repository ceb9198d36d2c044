"""Hub ids: what the local cache of a hub says about a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.locations.files import absolute
from taskstore.locations.publish import recover

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
# files of weights that are named like those of any other model
_USUAL = re.compile(r"(model|pytorch_model|adapter_model|consolidated)\b.*", re.ASCII)
_HUB_CACHE = re.compile(r"models--(?P<id>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})$")


def locate(model: str | os.PathLike[str]) -> tuple[Path, str, str | None]:
    """Return local path, source and revision of a model as a user names it."""
    path = absolute(os.path.expanduser(model))
    try:
        recover(path)
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(repr(model)[:200], f"is no path: {why}") from None
    if not there:
        raise CheckpointError(model, f"there is no such folder or file{_way_out(os.fspath(model))}")
    found = _snapshot(path)
    if found:
        return path, found["id"].replace("--", "/", 1), found["revision"]
    return path, str(path), None


def name_of(model: str | os.PathLike[str]) -> str:
    """Return how a model is called: after its folder, or its repository in the hub's cache.

    A weight file has the name of its folder where its own says nothing.
    """
    path = absolute(os.path.expanduser(model))
    if os.path.isfile(path):
        if not _USUAL.fullmatch(path.name):
            return path.stem
        path = path.parent
    try:
        found, own = _snapshot(path), path.resolve().name
    except (OSError, ValueError):  # a name that no file can have
        return path.name
    return found["id"].split("--", 1)[-1] if found else own


def _snapshot(path: Path) -> re.Match[str] | None:
    """Match a snapshot of the hub's cache, or a link to one."""
    return _HUB_CACHE.search(path.as_posix()) or _HUB_CACHE.search(path.resolve().as_posix())


def _way_out(model: str) -> str:
    """Say what to do with a hub id."""
    if not _HUB_ID.fullmatch(model):
        return ""
    return (
        "; if it is an id of the Hugging Face hub, download it and name the folder that is "
        f"printed: hf download {model}"
    )


def cached(hub_id: str, revision: str) -> Path:
    """Return where the local cache keeps a snapshot, whether it is there or not."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
