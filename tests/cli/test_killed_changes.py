"""What changes a store in its folder, killed wherever it changes the disk, and at random moments.

The old or the new store is whole, `verify` passes, the next command cleans up what is left.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import taskstore
from taskstore.store.verify import verify
from tests.cli.test_killed import SHAPES, World
from tests.support import families
from tests.support.killing import Killer

pytestmark = pytest.mark.slow
EVAL = "--eval 'sh -c \"echo 0.5\" {model} {task}'"
COMMANDS = {
    "add": "add archive new=ALPHA",
    "replace": "replace archive alpha=BETA --yes",
    "rename": "rename archive alpha omega",
    "remove": "remove archive alpha --yes",
    "eval --record": f"eval archive alpha --record mine {EVAL}",
    "add --repack": "add store new=ALPHA --repack",
    "retier": "retier store --tiers mask --drop-exact",
    "gc": "gc archive",
    "repair": "repair archive --from ALPHA",
}
STRIDE = 3  # every third change of the disk
MOMENTS = int(os.environ.get("TASKSTORE_KILLS", "3"))  # and so many random moments
STRIDES = {"add --repack": 7, "retier": 7, "eval --record": 5}  # those that take long


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("killed")
    for name in ("tmp", "before"):
        (root / name).mkdir()
    family = families.family(root / "family", 2, shapes=SHAPES)
    archive = root / "before" / "archive"
    models = [family.base_path, *family.paths.values()]
    warm = [
        ["pack", *models, "-o", archive, "--tiers", "rest,exact", "--parent", "none", "-q"],
        ["pack", *models, "-o", root / "before" / "store", "--tiers", "mask,exact", "-q"],
        ["remove", archive, "beta", "--yes", "-q"],
        ["add", archive, f"beta={family.paths['beta']}", "-q"],
        ["verify", archive, "-q"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        with Killer(root / "tmp", *warm) as killer:
            yield World(root, killer, family)


def spoiled(store: Path, name: str) -> None:
    """Give gc and repair something to do."""
    if name == "gc":
        reader = taskstore.open(store)
        taskstore.remove(taskstore.open(store), ["beta"])
        reader.close()
    if name == "repair":
        (store / "tasks" / "alpha" / "exact.safetensors").write_bytes(b"")


def listing(folder: Path) -> dict[str, bytes]:
    return families.contents(folder)


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_change(world: World, name: str) -> None:
    killer, line = world.killer, COMMANDS[name]
    here = world.fresh(line)
    store, words = here / line.split()[1], world.words(line, here)
    spoiled(store, name)
    before = here.with_name("prepared")
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(here, before)
    old = taskstore.open(store).version
    began = time.monotonic()
    assert killer.run(*words).status == 0
    whole = time.monotonic() - began
    new, expected = taskstore.open(store).version, listing(here)
    rng = random.Random(name)
    stride = STRIDES.get(name, STRIDE)
    first = rng.randint(1, stride)
    points, killed, seen = [(call, 0.0) for call in range(first, 2000, stride)], 0, set[str]()
    for n, (call, moment) in enumerate(points, 1):
        shutil.rmtree(here)
        shutil.copytree(before, here)
        done = killer.run(*words, call=call, seconds=moment)
        killed += done.killed
        if call and not done.killed:  # it has no more calls: go on with random moments
            points[n:] = [(0, rng.uniform(0, whole)) for _ in range(MOMENTS)]
        now = taskstore.open(store)
        assert now.version in (old, new), (call, moment)
        report = verify(now)
        assert report.ok or (name == "repair" and report.lost == ["alpha"]), (call, moment, report)
        now.close()
        left = f"{sorted(path.name for path in here.rglob('.*'))} {now.version == new}"
        if left not in seen:  # the same things are left as by an earlier kill
            seen.add(left)
            done = killer.run(*words)
            assert done.status in ((0, 1, 2) if now.version == new else (0,)), (call, moment, done)
            if done.status:
                assert killer.run("gc", store, "-q").status == 0
            found = listing(here)
            changed = {p for p in {*found, *expected} if found.get(p) != expected.get(p)}
            again = name in ("replace", "eval --record")  # once more is one change more
            assert not changed or (again and changed <= {"archive/taskstore.json"}), (call, left)
        assert list((world.root / "tmp").iterdir()) == [], (call, moment)
    assert killed > 1
    print(f"{name}: killed {killed} times of {len(points)}")
