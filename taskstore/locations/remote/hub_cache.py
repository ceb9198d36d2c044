"""Where the hub's own library keeps repositories on this machine, and what it knows of them."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from taskstore.locations.files import LocalFolder, read_regular

_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(hub_id: str) -> Path:
    """Return where the local cache keeps a repository, whether it is there or not."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"


def cached(hub_id: str, revision: str) -> Path:
    """Return where the local cache keeps a snapshot, whether it is there or not."""
    return repository(hub_id) / "snapshots" / revision


def cached_commit(hub_id: str, revision: str) -> str | None:
    """Return the commit that a revision was when the cache was filled, if files of it are there."""
    root = repository(hub_id)
    with suppress(OSError, ValueError):
        commit = revision
        if not _COMMIT.fullmatch(revision):
            commit = read_regular(root / "refs" / revision, 200, root / "refs").decode().strip()
        if _COMMIT.fullmatch(commit) and (root / "snapshots" / commit).is_dir():
            return commit
    return None


def note(hub_id: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a revision is now, as the hub's own library does."""
    refs = repository(hub_id) / "refs"
    if not _COMMIT.fullmatch(revision) and ".." not in revision.split("/"):
        LocalFolder(refs).put(revision, commit.encode())
