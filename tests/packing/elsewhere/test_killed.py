"""A writer of a bucket or a hub, killed between its requests: the old store is whole, or the new.

A command is killed before its n-th request, and begun again, and killed before a later one, until
it ends or has made the new store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

import taskstore
from taskstore.format.manifest_file import is_store
from taskstore.packing.elsewhere.collecting import collect
from tests.support.families import Family, contents
from tests.support.hub.faults import Hub
from tests.support.killing import Killer
from tests.support.seaweed import BUCKET, Seaweed

pytestmark = [pytest.mark.xdist_group("s3"), pytest.mark.slow]
MOST = 400  # requests of a command


def tasks_in(bucket: str) -> list[str]:
    """The tasks of the store that is there, all of it checked; none where there is no store."""
    if not is_store(bucket):
        return []
    store = taskstore.open(bucket)
    assert taskstore.verify(store).problems == []
    return store.tasks


def tasks_on(hub: Hub, repository: str, *stores: Path) -> list[str]:
    """The same of a repository, whose store must be one of `stores`."""
    if repository not in hub.repositories.names():
        return []
    found = hub.repositories.edit(repository)
    files = found.commits[found.refs["main"]].files
    held = {name: blob.data for name, blob in files.items() if name != ".gitattributes"}
    if not held:
        return []
    return next(taskstore.open(store).tasks for store in stores if contents(store) == held)


def killed(
    killer: Killer, words: Sequence[object], look: Callable[[], list[str]], calls: Iterable[int]
) -> int:
    """Kill a command at its requests `calls`, in turn, then let it end; return how many did."""
    kills, before = 0, look()
    for call in calls:
        done = killer.run(*words, call=call, remote=True)
        assert done.killed or done.status == 0, done.said
        kills += done.killed
        if (after := look()) != before or not done.killed:
            break
    else:
        done = killer.run(*words)
        assert done.status == 0, done.said
        after = look()
    assert {*after} > {*before}
    return kills


def kill_in_a_bucket(killer: Killer, small: Family, packed: Path, where: str, step: int) -> int:
    def look() -> list[str]:
        found = tasks_in(where)
        assert found in ([], [*small.paths], sorted([*small.paths, "new"]))
        return found

    kills = killed(killer, ["copy", packed, where], look, range(1, MOST, step))
    add = ["add", where, f"new={next(iter(small.paths.values()))}", "--tiers", "exact"]
    return kills + killed(killer, add, look, range(2, MOST, step))


def kill_a_push(killer: Killer, hub: Hub, packed: Path, smaller: Path, name: str, step: int) -> int:
    kills = 0
    for store in (smaller, packed):
        words = ["push", store, name]
        kills += killed(
            killer, words, lambda: tasks_on(hub, name, smaller, packed), range(1, MOST, step)
        )
    return kills


def test_in_a_bucket(small: Family, packed: Path, s3: Seaweed, tmp_path: Path) -> None:
    """`gc` then finds what killed writers left, and nothing else."""
    where = f"s3://{BUCKET}/killed/{tmp_path.name}"
    (tmp_path / "t").mkdir()
    with Killer(tmp_path / "t") as killer:
        assert kill_in_a_bucket(killer, small, packed, where, 9) >= 4
    collect(where, older=0)
    assert tasks_in(where) == sorted([*small.paths, "new"])


def test_of_a_hub(packed: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    smaller = taskstore.copy(packed, taskstore.open(packed).tasks[:1], tmp_path / "smaller")
    (tmp_path / "t").mkdir()
    with Killer(tmp_path / "t") as killer:
        assert kill_a_push(killer, hub, packed, smaller.path, "ann/killed", 9) >= 4
