"""Every command that writes, killed wherever it changes the disk, and at random moments.

Whatever ends it, the target is the old one or the new one, whole; the next command of any kind
finds it, the same command run again succeeds, and then nothing is left of the killed one.
"""

from __future__ import annotations

import random
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskstore.locations import publish
from tests.support import families
from tests.support.killing import Killer

pytestmark = pytest.mark.slow
SHAPES = {"a.weight": (8, 16), "b.weight": (40,)}
EVAL = "--eval 'sh -c \"echo 0.5\" {model} {task}'"
TWO_RENAMES = ("pack over", "unpack", "merge")  # without the exchange of two names
STRIDE, MOMENTS = 4, 2  # every fourth change of the disk, and random moments
STRIDES = {"pack --target": 12}  # it packs for every number of bits, in many changes of the disk
TARGETS = ("archive", "store", "model", "models", "merged", "page.html")
COMMANDS = {
    "pack": "pack BASE ALPHA BETA -o store --overwrite",
    "pack over": "pack BASE ALPHA BETA -o archive --overwrite --yes",
    "pack --max-error": "pack BASE ALPHA -o archive --max-error 0.05 --overwrite --yes",
    "pack --target": f"pack BASE ALPHA -o archive --target 0.9 {EVAL} --overwrite --yes",
    "tune": f"tune BASE ALPHA -o archive --grid 0.4 {EVAL} --overwrite --yes",
    "retier -o": "retier archive --tiers mask -o store --overwrite",
    "unpack": "unpack archive alpha -o model --overwrite",
    "unpack --all": "unpack archive --all -o models --overwrite",
    "merge": "merge BASE ALPHA BETA -o merged --method average --overwrite",
    "merge a store": "merge archive -o merged --method average --overwrite",
    "merge --eval": f"merge archive -o merged --method sum --alpha 0.5 {EVAL} --overwrite",
    "report": "report archive -o page.html --overwrite",
}


@dataclass
class World:
    """Models, what kills, and the folder `before`, of which every run gets a copy."""

    root: Path
    killer: Killer
    family: families.Family

    def words(self, line: str, here: Path) -> list[object]:
        """A command line, with the paths that it means."""
        places = {"BASE": self.family.base_path}
        places |= {name.upper(): path for name, path in self.family.paths.items()}
        places |= {name: here / name for name in TARGETS}
        found: list[object] = []
        for word in shlex.split(line):
            name, equals, place = word.rpartition("=")
            found.append(f"{name}{equals}{places[place]}" if place in places else word)
        return [*found, "-q"]

    def fresh(self, line: str) -> Path:
        """A folder with a copy of what a command line names."""
        here = self.root / "here"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for path in (self.root / "before").iterdir():
            if path.name in line.split():
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, here / path.name)
        return here


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("killed")
    for name in ("tmp", "before"):
        (root / name).mkdir()
    family = families.family(root / "family", 2, shapes=SHAPES)
    here = root / "before"
    models = [family.base_path, *family.paths.values()]
    warm = [
        ["pack", *models, "-o", here / "archive", "--tiers", "mask,exact", "-q"],
        ["unpack", here / "archive", "beta", "-o", here / "model", "-q"],
        ["unpack", here / "archive", "--all", "--tier", "mask", "-o", here / "models", "-q"],
        ["merge", *models, "-o", here / "merged", "--method", "ties", "-q"],
        ["report", here / "archive", "--no-vectors", "-o", here / "page.html", "-q"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # what is done again gives the same bytes
        with Killer(root / "tmp", *warm) as killer:
            yield World(root, killer, family)


def visible(here: Path) -> dict[str, bytes]:
    """The targets; a journal may be there too until its command has succeeded."""
    found = families.contents(here).items()
    return {n: raw for n, raw in found if not n.startswith(".") and not n.endswith(".jsonl")}


@pytest.mark.parametrize(
    ("name", "exchange"),
    [*((name, True) for name in COMMANDS), *((name, False) for name in TWO_RENAMES)],
)
def test_killed_at_every_change(world: World, name: str, exchange: bool) -> None:
    killer, tmp = world.killer, world.root / "tmp"
    here = world.fresh(COMMANDS[name])
    old, words = visible(here), world.words(COMMANDS[name], here)
    assert killer.run(*words, exchange=exchange).status == 0
    new = families.contents(here)
    assert new != old
    rng = random.Random(name)
    stride = STRIDES.get(name, STRIDE)
    first = rng.randint(1, stride)
    points, seen = [(call, 0.0) for call in range(first, 2000, stride)], set[str]()
    for n, (call, moment) in enumerate(points, 1):
        here = world.fresh(COMMANDS[name])
        done = killer.run(*words, call=call, seconds=moment, exchange=exchange)
        if call and not done.killed:  # it has no more calls: go on with random moments
            points[n:] = [(0, rng.uniform(0, 0.3)) for _ in range(MOMENTS)]
        left = sorted(path.name for path in here.iterdir())
        for target in TARGETS:
            publish.recover(here / target)  # as every command that looks for one
        after = visible(here)
        assert after in (old, new), (call, moment, left)
        assert list(tmp.iterdir()) == [], (call, moment)
        kind = f"{[re.sub('scratch-.*', '', name) for name in left]} {after == new}"
        if kind not in seen:  # the same things are left as by an earlier kill
            seen.add(kind)
            done = killer.run(*words, exchange=exchange)
            assert done.status in ((0, 1) if after == new else (0,)), (call, moment, done)
            assert families.contents(here) == new, (call, moment, left, done)
            assert list(tmp.iterdir()) == [], (call, moment)
    assert len(points) > MOMENTS + 2
