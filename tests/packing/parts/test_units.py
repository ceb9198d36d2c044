"""How a pack is cut: every block once, no unit much larger than its share, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskstore.locations.files import LocalFolder
from taskstore.models.family import open_family
from taskstore.packing.block_coder import Coder
from taskstore.packing.driver import fitted
from taskstore.packing.job import make_job
from taskstore.packing.options import PackOptions
from taskstore.packing.parts import units
from taskstore.packing.parts.coded import Parts
from taskstore.progress import silent
from tests.support import families
from tests.support.families import Family

EMBED = "embed_tokens.weight"


@contextmanager
def parts_of(family: Family, place: Path, options: PackOptions) -> Iterator[Parts]:
    opened = open_family(family.base_path, family.paths)
    try:
        job = make_job(opened, options, silent)
        with fitted(job) as source:
            yield Parts(Coder.of(job, source), LocalFolder(place), "units")
    finally:
        opened.close()


@pytest.fixture
def rich(tmp_path: Path) -> Family:
    return Family(tmp_path, *families.rich_states())


@pytest.mark.parametrize("least", [1, 3000, 1 << 30])
def test_every_block_is_in_one_unit(
    rich: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(units, "LEAST", least)
    chosen = families.options(tiers="mask,exact", keep_private=True, chunk=1024)
    with parts_of(rich, tmp_path, chosen) as parts:
        found = [n for unit in parts.units for n in unit.blocks]
        assert sorted(found) == list(range(len(parts.blocks)))
        assert [unit.number for unit in parts.units] == list(range(len(parts.units)))
        assert (len(parts.units) == 1) == (least == 1 << 30)


def test_a_large_tensor_is_cut_and_one_that_grew_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "LEAST", 20_000)
    monkeypatch.setattr(units, "MOST", 1000)
    base = families.random_state(0, shapes={EMBED: (100, 64), "same": (100, 64)})
    tuned = families.tuned(base, 1)
    tuned[EMBED] = families.random_state(1, shapes={EMBED: (101, 64)})[EMBED]
    family = Family(tmp_path, base, {"one": tuned, "two": families.tuned(base, 2)})
    chosen = families.options(tiers="exact", keep_private=True, chunk=1024)
    with parts_of(family, tmp_path, chosen) as parts:
        cut = {parts.blocks[n].block.name for unit in parts.units if unit.cut for n in unit.blocks}
        assert cut == {"same"}
        grown = [u for u in parts.units if parts.blocks[u.blocks[0]].block.name == EMBED]
        assert len(grown) == 1
        assert [parts.blocks[start].private for start, _ in grown[0].runs] == [None, 6400]
    with parts_of(family, tmp_path, families.options(keep_private=True, chunk=1000)) as parts:
        assert not any(unit.cut for unit in parts.units)  # blocks are no whole subtrees


def test_a_tensor_with_factors_is_coded_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines may round them differently, and all blocks have the same."""
    monkeypatch.setattr(units, "LEAST", 20_000)
    monkeypatch.setattr(units, "MOST", 1000)
    base = families.random_state(0, shapes={"a": (200, 64), "b": (12800,)})
    family = Family(tmp_path, base, {"one": families.tuned(base, 1)})
    for bits, cut_ones in ((1.0, {"b"}), (3.0, {"a", "b"})):
        chosen = families.options(tiers="rest", residual=bits, chunk=1024)
        with parts_of(family, tmp_path, chosen) as parts:
            found = [n for unit in parts.units if unit.cut for n in unit.blocks]
            assert {parts.blocks[n].block.name for n in found} == cut_ones


def test_parts_share_all_units_and_none_has_much_more() -> None:
    every = [units.Unit(n, ((n, n + 1),), size) for n, size in enumerate([90, 5, 5, 50, 40, 10])]
    mine = [units.of_part(every, part, 2) for part in (1, 2)]
    assert sorted(unit.number for part in mine for unit in part) == list(range(6))
    assert [sum(unit.nbytes for unit in part) for part in mine] == [100, 100]
    assert units.of_part(every, 8, 8) == []
