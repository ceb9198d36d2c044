"""What changes a store is its only writer, and the store is still what was read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from taskstore.errors import ChangedMeanwhile
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.public import public
from taskstore.store import Store
from taskstore.store.store import opened

TRIES = 8
_log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])


def place_of(store: Store) -> Path:
    """Return the store's folder itself, whatever link led to it: it has one lock."""
    return Path(os.path.realpath(store.path))


def alone(store: Store) -> AbstractContextManager[None]:
    """Hold the lock of a store; there is none elsewhere, where a manifest is put if it may be."""
    return nullcontext() if store.is_elsewhere else publish.alone(place_of(store))


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Be the only writer of a store; raises ChangedMeanwhile where it is not what was read."""
    with alone(store):
        store.check_unchanged()
        yield


def in_place(revise: F) -> F:
    """Make a public function that changes a store its only writer; a path is opened.

    A store elsewhere has no lock. There `add` begins again where another writer was faster: it
    takes nothing away from that one.
    """

    @wraps(revise)
    def guarded(store: Store | PathLike, *args: Any, **options: Any) -> Any:
        found = opened(store)
        for left in reversed(range(TRIES if revise.__name__ == "add" else 1)):
            try:
                with only_writer(found):
                    return revise(found, *args, **options)
            except ChangedMeanwhile:
                if not left or not found.is_elsewhere:
                    raise
                _log.info("%s was changed meanwhile: beginning again", found.where)
                found.close()
                found = Store(found.where, found.base_path)
        raise AssertionError

    return public(cast(F, guarded))
