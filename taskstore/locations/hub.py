"""Hub ids: what the local cache of a hub says about a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.locations.publish import recover

_HUB_CACHE = re.compile(r"models--(?P<id>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})$")


def locate(model: str | os.PathLike[str]) -> tuple[Path, str, str | None]:
    """Return local path, source and revision of a model as a user names it."""
    path = Path(os.path.abspath(os.path.expanduser(model)))
    try:
        recover(path)
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(repr(model)[:200], f"is no path: {why}") from None
    if not there:
        raise CheckpointError(model, "there is no such folder or file")
    found = _HUB_CACHE.search(path.as_posix())
    if found:
        return path, found["id"].replace("--", "/", 1), found["revision"]
    return path, str(path), None


def cached(hub_id: str, revision: str) -> Path:
    """Return where the local cache keeps a snapshot, whether it is there or not."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
