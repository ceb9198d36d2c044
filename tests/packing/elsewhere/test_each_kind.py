"""A store in Azure's and in Google's object store: written, changed by two at once, read, cleaned.

tests/packing/elsewhere/test_sending.py has more, on S3.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import taskstore
from taskstore import AddOptions
from taskstore.errors import ChangedMeanwhile, TargetExists
from taskstore.format.names import CARD, MANIFEST
from taskstore.packing.changes.tasks import rename
from taskstore.packing.elsewhere import sending
from taskstore.packing.elsewhere.collecting import collect
from tests.support import clouds, families
from tests.support.families import Family, contents

EXACT = families.options(tiers="exact")


@pytest.fixture(params=["az", "gs"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    request.getfixturevalue(request.param)
    return str(clouds.bucket(request.param, f"stores/{tmp_path.name}").address)


def test_a_store_there_is_the_local_one(small: Family, where: str, tmp_path: Path) -> None:
    first, second, third = small.paths
    taskstore.pack(small.base_path, {first: small.paths[first]}, where, EXACT)
    with pytest.raises(TargetExists):
        taskstore.pack(small.base_path, {first: small.paths[first]}, where, EXACT)
    old = taskstore.open(where)
    taskstore.add(where, {n: small.paths[n] for n in (second, third)}, AddOptions(tiers="exact"))
    taskstore.remove(where, [third])
    with pytest.raises(ChangedMeanwhile, match="was changed by another"):
        rename(old, first, "x")
    store = taskstore.open(where)
    assert store.tasks == sorted([first, second])
    assert taskstore.verify(where, deep=True).ok
    assert contents(store.unpack(second, tmp_path / "out")) == contents(small.paths[second])
    collect(where, older=0)
    scheme, _, rest = where.partition("://")
    there = {*clouds.bucket(scheme, rest.partition("/")[2]).names()}
    assert there == {MANIFEST, CARD, *store.manifest.files}


def test_two_that_add_lose_nothing(
    small: Family, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the same store when they begin to write."""
    first, _, third = small.paths
    taskstore.pack(small.base_path, {first: small.paths[first]}, where, EXACT)
    meet, real, lock, met = threading.Barrier(2), sending.put_store, threading.Lock(), list[int]()

    def together(*given: object, **options: object) -> object:
        with lock:
            met.append(1)
            waits = len(met) <= 2
        if waits:
            meet.wait(60)
        return real(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("taskstore.packing.changes.commit.put_store", together)
    how = AddOptions(tiers="exact")
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(taskstore.add, where, {name: small.paths[third]}, how)
            for name in ("one", "two")
        ]
        for run in runs:
            run.result(120)
    assert taskstore.open(where).tasks == sorted([first, "one", "two"])
    assert taskstore.verify(where, deep=True).ok
