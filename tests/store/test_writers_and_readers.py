"""Two writers and three readers at one store: no task is lost, no byte wrong, no reader fails."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import taskstore
from taskstore.store.verify import verify
from tests.support import families, loose

SECONDS = 5.0
SHAPES = {"a.weight": (8, 16), "b.weight": (40,)}


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_two_writers_and_three_readers(tmp_path: Path, exchange: bool) -> None:
    family = families.family(tmp_path / "family", 3, shapes=SHAPES)
    models = {name[0]: path for name, path in family.paths.items()}
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "store"
    taskstore.pack(family.base_path, {"gamma": models["g"]}, path, families.options(tiers="exact"))
    with ProcessPoolExecutor(5, mp_context=multiprocessing.get_context("spawn")) as pool:
        writers = [
            pool.submit(loose.write, path, who, models[who], SECONDS, exchange=exchange)
            for who in "ab"
        ]
        readers = [
            pool.submit(loose.read, path, models, tmp_path / f"out{i}", SECONDS) for i in range(3)
        ]
        wrote = [writer.result(timeout=500) for writer in writers]
        whole = [reader.result(timeout=500) for reader in readers]
    there = {task for done in wrote for task, last in done.there.items() if last}
    store = taskstore.open(path)
    assert set(store.tasks) == {"gamma", *there}
    assert verify(store, deep=True).ok
    assert [p.name for p in path.parent.iterdir()] == ["store"]
    assert all(done.there for done in wrote)
    assert sum(whole) > 0
