"""Writers that race for one file, in every kind of location: one wins, nothing is lost."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from taskstore.errors import ChangedMeanwhile
from tests.locations.test_base import KINDS, everything, whole

ROUNDS = 40


def contend(kind: str, root: Path, who: str) -> list[int]:
    """Try to write each round once; returns the rounds that were won.

    All contenders of a round have seen the same content, so only one of them may win.
    """
    place, won = KINDS[kind](root), []
    for i in range(ROUNDS):
        seen = f"round {i - 1}".encode() if i else None
        wait_for(kind, root, "f", seen)
        try:
            place.put_if_unchanged("f", f"claimed {i} by {who}".encode(), seen)
        except ChangedMeanwhile:
            continue
        won.append(i)
        place.put_if_unchanged("f", f"round {i}".encode(), f"claimed {i} by {who}".encode())
    return won


def wait_for(kind: str, root: Path, name: str, content: bytes | None) -> None:
    """Until the file holds that, or what a later round wrote.

    A repository of a hub is pinned where it was opened, so it is opened each time.
    """
    number = -1 if content is None else int(content.split()[1])
    deadline = time.monotonic() + 300
    while number >= 0:
        found = whole(KINDS[kind](root), name).split()
        if found[0] == b"round" and int(found[1]) >= number:
            return
        assert time.monotonic() < deadline, "the other contender is gone"


def count_up(kind: str, root: Path, times: int) -> int:
    """Add one `times` times, each time reading anew until nobody was faster; returns the tries."""
    tries = 0
    for _ in range(times):
        while True:
            place = KINDS[kind](root)
            seen, tries = whole(place, "n"), tries + 1
            try:
                place.put_if_unchanged("n", str(int(seen) + 1).encode(), seen)
            except ChangedMeanwhile:
                continue
            break
    return tries


def pools() -> list[Callable[[], ThreadPoolExecutor | ProcessPoolExecutor]]:
    spawn = multiprocessing.get_context("spawn")  # a forked child may inherit a held lock
    return [
        lambda: ThreadPoolExecutor(2),
        lambda: ProcessPoolExecutor(2, mp_context=spawn),
    ]


def made(
    make_pool: Callable[[], ThreadPoolExecutor | ProcessPoolExecutor], kind: str
) -> ThreadPoolExecutor | ProcessPoolExecutor:
    pool = make_pool()
    if kind in ("memory", "hub") and isinstance(pool, ProcessPoolExecutor):
        pytest.skip("other processes do not know the place")
    return pool


@pytest.mark.parametrize("make_pool", pools(), ids=["threads", "processes"])
def test_a_race_has_one_winner(
    kind: str,
    tmp_path: Path,
    make_pool: Callable[[], ThreadPoolExecutor | ProcessPoolExecutor],
) -> None:
    with made(make_pool, kind) as pool:
        races = [pool.submit(contend, kind, tmp_path, who) for who in ("one", "two")]
        won = [race.result(timeout=500) for race in races]
    assert sorted(won[0] + won[1]) == list(range(ROUNDS))
    assert everything(KINDS[kind](tmp_path)) == {"f": f"round {ROUNDS - 1}".encode()}


@pytest.mark.parametrize("make_pool", pools(), ids=["threads", "processes"])
def test_no_update_is_lost(
    kind: str,
    tmp_path: Path,
    make_pool: Callable[[], ThreadPoolExecutor | ProcessPoolExecutor],
) -> None:
    place = KINDS[kind](tmp_path)
    place.put("n", b"0")
    with made(make_pool, kind) as pool:
        counts = [pool.submit(count_up, kind, tmp_path, ROUNDS) for _ in range(2)]
        tries = [count.result(timeout=500) for count in counts]
    place = KINDS[kind](tmp_path)
    assert whole(place, "n") == str(2 * ROUNDS).encode()
    assert min(tries) >= ROUNDS
    assert list(place.names()) == ["n"]
