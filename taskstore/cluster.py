"""Units of work on the machines of a Ray cluster, results in order; see executors.py.

taskstore is installed on every machine, and all see the same paths. A worker or a machine that dies
costs its units, which others do again; a machine that joins is used at once.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from taskstore.errors import OptionError, TaskstoreError
from taskstore.extras import need

S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")
AHEAD = 4  # units per core that are begun and not taken
KEPT = 2  # pieces of shared data that a worker process holds
_shared: OrderedDict[bytes, Any] = OrderedDict()  # in a worker: by the number of its object


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process has joined; one core per unit.

    `resume`: what a run that died has done is taken up (locations/remote/claims.py).
    """

    address: str
    resume: bool = False

    @property
    def jobs(self) -> int:
        """Return the cores there are now."""
        return max(1, int(need("a cluster", "ray").cluster_resources().get("CPU", 1)))

    def map(self, function: Callable[[S, U], R], shared: S, units: Iterable[U]) -> Iterator[R]:
        ray = need("a cluster", "ray")
        sent = [ray.put(pickle.dumps(shared))]
        work = ray.remote(num_cpus=1, max_retries=-1)(_work)
        waiting: deque[Any] = deque()
        try:
            for unit in units:
                while len(waiting) >= AHEAD * self.jobs:
                    yield _taken(ray, waiting)
                waiting.append(work.remote(function, sent, unit))
            while waiting:
                yield _taken(ray, waiting)
        finally:
            for one in waiting:
                ray.cancel(one)


def connect(address: str, *, resume: bool = False) -> Cluster:
    """Join a running cluster: "auto" finds the one of this machine. Raises OptionError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = need("a cluster", "ray")
    try:
        if not ray.is_initialized():
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OptionError(
            f"cluster {address!r} cannot be joined ({why}): start one with "
            "`ray start --head`, and give 'auto' on its machines, or its HOST:PORT"
        ) from None
    return Cluster(address, resume)


def _reach(address: str) -> None:
    """Raise OSError within seconds where nothing answers at HOST:PORT; Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host:  # not ray://HOST:PORT
        if not port.isdecimal():
            raise ValueError(f"{port!r} is no port")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


_joined: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def on_cluster(address: str | None, *, resume: bool = False) -> Iterator[None]:
    """In the block, what changes, checks, merges, scores or unpacks a store runs on a cluster.

    That is `add`, `replace`, `retier`, `merge`, `verify` with `deep`, `unpack_all` and `evaluate`.
    `address` is HOST:PORT, or "auto" for the cluster of this machine; None: nothing changes.
    `resume` takes up what a run has done that died, with the same models and options. Raises
    OptionError or MissingExtra.

    >>> with taskstore.on_cluster("auto"):  # doctest: +SKIP
    ...     taskstore.verify("/shared/family", deep=True)
    """
    token = _joined.set(_joined.get() if address is None else connect(address, resume=resume))
    try:
        yield
    finally:
        _joined.reset(token)


def joined() -> Cluster | None:
    """Return the cluster that work is to run on; None: on this machine."""
    return _joined.get()


def _taken(ray: Any, waiting: deque[Any]) -> Any:
    good, found = ray.get(waiting.popleft())
    if good:
        return found
    raise found


def _work(function: Callable[[Any, Any], Any], sent: list[Any], unit: Any) -> tuple[bool, Any]:
    """Do one unit in a worker; what it raises is a result, so that nothing is done twice for it."""
    key = sent[0].binary()
    if key not in _shared:
        import ray

        while len(_shared) >= KEPT:
            _shared.popitem(last=False)
        _shared[key] = pickle.loads(ray.get(sent[0]))
    try:
        return True, function(_shared[key], unit)
    except Exception as error:
        return False, _portable(error)


def _portable(error: Exception) -> Exception:
    """Return an error that another process can raise: itself, or one that says the same."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # of whatever class it is, its words are what is wanted
        pass
    ours = isinstance(error, TaskstoreError)
    return TaskstoreError(str(error)) if ours else RuntimeError(f"{type(error).__name__}: {error}")
