"""Note in a manifest what was done to its store, when, and by which version."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec

from taskstore.errors import InputError
from taskstore.format.manifest import MAX_HISTORY, Change, Manifest
from taskstore.format.rules.since import VERSION_OF_CHANGES
from taskstore.version import __version__


def with_change(manifest: Manifest, before: str, what: str, tasks: list[str]) -> Manifest:
    """Append a change to a manifest's history, which makes it one of a version that has histories.

    `before`: the version of the store until then.
    """
    writer = f"taskstore {__version__}"
    change = Change(what=what, tasks=tasks, when=_now(), writer=writer, before=before)
    history = [*(manifest.history or ()), change][-MAX_HISTORY:]
    version = max(manifest.version, VERSION_OF_CHANGES)
    return msgspec.structs.replace(manifest, history=history, version=version)


def _now() -> str:
    """Return the time, or what SOURCE_DATE_EPOCH says, so that builds can be repeated."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        when = datetime.fromtimestamp(int(given), UTC) if given else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH is {given!r:.99}, no number of seconds") from None
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
