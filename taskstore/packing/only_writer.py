"""What changes a store is its only writer, and the store is still what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

from taskstore.locations import publish
from taskstore.store import Store

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Be the only writer of a store; raises ChangedMeanwhile where it is not what was read."""
    with publish.alone(store.path):
        store.check_unchanged()
        yield


def in_place(revise: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """Make a function that changes a store its only writer."""

    @wraps(revise)
    def guarded(store: Store, *args: P.args, **kwargs: P.kwargs) -> R:
        with only_writer(store):
            return revise(store, *args, **kwargs)

    return cast("Callable[Concatenate[Store, P], R]", guarded)
