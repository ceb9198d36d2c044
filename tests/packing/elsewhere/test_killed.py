"""A writer of a bucket that is killed at any moment: the old store is whole, or the new one is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import taskstore
from taskstore.format.manifest_file import is_store
from taskstore.packing.elsewhere.collecting import collect
from tests.support.families import Family
from tests.support.killing import Killer
from tests.support.seaweed import BUCKET, Seaweed

pytestmark = [pytest.mark.xdist_group("s3"), pytest.mark.slow]
KILLS = 9


def whole(where: str) -> list[str]:
    """The tasks of the store that is there, all of it checked; none where there is no store."""
    if not is_store(where):
        return []
    store = taskstore.open(where)
    assert taskstore.verify(store).problems == []
    return store.tasks


def test_killed_copies_and_additions(
    small: Family, packed: Path, s3: Seaweed, tmp_path: Path
) -> None:
    """The next run of the same command ends what was begun; `gc` then finds the leavings."""
    moments = random.Random(21)
    where = f"s3://{BUCKET}/killed/{tmp_path.name}"
    source = next(iter(small.paths.values()))
    (tmp_path / "t").mkdir()
    killed, longest = 0, 0.4  # seconds to a kill: fewer where the command ended before, else more
    with Killer(tmp_path / "t") as killer:
        for i in range(10 * KILLS):
            if i >= KILLS and killed > KILLS // 3:
                break
            target = f"{where}-{i % 3}"
            before = whole(target)
            add = ["add", target, f"new{i}={source}", "--tiers", "exact"]
            words = add if before else ["copy", packed, target]
            done = killer.run(*words, seconds=moments.uniform(0.2, 1) * longest)
            assert done.killed or done.status == 0, done.said
            killed += done.killed
            longest *= 1.5 if done.killed else 0.5
            after = whole(target)
            assert after in (before, sorted([*before, f"new{i}"]), [*small.paths])
            again = killer.run(*words)
            last = whole(target)  # a put that was on its way may have come after `after`
            assert again.status == 0 or last != before, again.said
            assert {*before} <= {*last}
    assert killed > KILLS // 3
    collect(f"{where}-0", older=0)
    assert {*small.paths} <= {*whole(f"{where}-0")}
