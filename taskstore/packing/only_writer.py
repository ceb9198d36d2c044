"""What changes a store is its only writer, and the store is still what was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.public import public
from taskstore.store import Store
from taskstore.store.store import opened

F = TypeVar("F", bound=Callable[..., Any])


def place_of(store: Store) -> Path:
    """Return the store's folder itself, whatever link led to it: it has one lock."""
    return Path(os.path.realpath(store.path))


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Be the only writer of a store; raises ChangedMeanwhile where it is not what was read."""
    with publish.alone(place_of(store)):
        store.check_unchanged()
        yield


def in_place(revise: F) -> F:
    """Make a public function that changes a store its only writer; a path is opened."""

    @wraps(revise)
    def guarded(store: Store | PathLike, *args: Any, **options: Any) -> Any:
        found = opened(store)
        with only_writer(found):
            return revise(found, *args, **options)

    return public(cast(F, guarded))
