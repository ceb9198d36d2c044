"""Packs that several processes share: the bytes of one, whatever dies in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import taskstore
from taskstore import PackOptions
from taskstore.errors import FormatError, InputError, OptionError, TargetExists
from taskstore.locations.remote.claims import where_parts_lie
from taskstore.packing.auto import choose
from taskstore.packing.parts import coded, unit_files, units
from taskstore.packing.parts.driver import pack_part, seal
from tests.support import families
from tests.support.families import Family, contents, options

PARTS = 3
CASES: dict[str, dict[str, Any]] = {
    "mask": {"method": "lsq"},
    "ties": {"method": "ties", "level": "archive"},
    "magnitude": {"method": "magnitude"},
    "rest": {"tiers": "rest", "base": "reference", "shard_bytes": 4000},
    "all": {"tiers": "mask,rest,exact"},
    "low rank": {"tiers": "rest", "residual": 0.8},
    "exact": {"tiers": "exact", "level": "archive"},
    "auto": {"tiers": "auto"},
}


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("rich"), *families.rich_states())


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 3000)
    monkeypatch.setattr(unit_files, "SEGMENT", 2000)


def in_parts(family: Family, target: Path, chosen: PackOptions, parts: int = PARTS) -> None:
    for part in range(parts, 0, -1):
        pack_part(family.base_path, family.paths, target, part, parts, chosen)


def test_a_model_that_was_trained_on_is_refused(rich: Family, tmp_path: Path) -> None:
    """Its tensors have the same names and shapes; parts of both would make a model of neither."""
    models = {task: tmp_path / task for task in rich.paths}
    for task, path in rich.paths.items():
        shutil.copytree(path, models[task])
    chosen = options(keep_private=True, tiers="exact", chunk=1024)
    pack_part(rich.base_path, models, tmp_path / "many", 1, 2, chosen)
    one = next(iter(models.values()))
    file = next(one.glob("*.safetensors"))
    weights = load_file(file)
    save_file({name: own + own for name, own in weights.items()}, file, {"format": "pt"})
    with pytest.raises(InputError, match="parts of another pack are there"):
        pack_part(rich.base_path, models, tmp_path / "many", 2, 2, chosen)
    with pytest.raises(InputError, match="has other tensors"):
        seal(tmp_path / "many")


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_those_of_one_process(rich: Family, tmp_path: Path, case: str) -> None:
    """Tied, grown, private, empty and integer tensors, and ones that are cut."""
    chosen = options(keep_private=True, chunk=1024, **CASES[case])
    one = taskstore.pack(rich.base_path, rich.paths, tmp_path / "one", chosen)
    in_parts(rich, tmp_path / "many", chosen)
    many = seal(tmp_path / "many")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert (many.warnings, many.notes, many.advice) == (one.warnings, one.notes, one.advice)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many", "one"]


def test_what_a_sample_got_wrong_is_coded_once_more(
    rich: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "MARGIN", 1.5)
    chosen = options(keep_private=True, tiers="auto")
    taskstore.pack(rich.base_path, rich.paths, tmp_path / "one", chosen)
    in_parts(rich, tmp_path / "many", chosen)
    seal(tmp_path / "many")
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


class Died(Exception):
    pass


def test_a_part_that_died_goes_on_where_it_was(
    rich: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units that are done stay; streams without a record are written again."""
    chosen = options(keep_private=True, jobs=1)
    target, done = tmp_path / "s", list[str]()

    def dies(self: Any) -> None:
        if len(done) == 2:
            raise Died
        done.append(self.name)
        finish(self)

    finish = coded._Writer.finish
    with monkeypatch.context() as patched:
        patched.setattr(coded._Writer, "finish", dies)
        with pytest.raises(Died):
            pack_part(rich.base_path, rich.paths, target, 1, 1, chosen)
    with pytest.raises(InputError, match="units are not done: run part 1/1 again"):
        seal(target)
    report = pack_part(rich.base_path, rich.paths, target, 1, 1, chosen)
    assert (report.units - report.coded, report.missing) == (2, 0)
    seal(target)
    taskstore.pack(rich.base_path, rich.paths, tmp_path / "one", chosen)
    assert contents(target) == contents(tmp_path / "one")


def test_a_seal_names_the_parts_that_are_missing(rich: Family, tmp_path: Path) -> None:
    chosen = options(keep_private=True)
    with pytest.raises(InputError, match="no such parts.*--part 1/N"):
        seal(tmp_path / "s")
    pack_part(rich.base_path, rich.paths, tmp_path / "s", 2, 3, chosen)
    with pytest.raises(InputError, match=r"run part 1/3, part 3/3 again"):
        seal(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_other_options_or_models_are_refused(rich: Family, tmp_path: Path) -> None:
    target, chosen = tmp_path / "s", options(keep_private=True)
    pack_part(rich.base_path, rich.paths, target, 1, 2, chosen)
    before = contents(Path(where_parts_lie(target)))
    with pytest.raises(InputError, match=r"another pack are there \(other options\)"):
        pack_part(rich.base_path, rich.paths, target, 2, 2, options(keep_private=True, lam=0.2))
    with pytest.raises(InputError, match=r"\(other parts\)"):
        pack_part(rich.base_path, rich.paths, target, 2, 3, chosen)
    fewer = {"one": rich.paths["one"]}
    with pytest.raises(InputError, match=r"\(other finetunes, models\)"):
        pack_part(rich.base_path, fewer, target, 2, 2, chosen)
    with pytest.raises(OptionError, match="part 3/2"):
        pack_part(rich.base_path, rich.paths, target, 3, 2, chosen)
    assert contents(Path(where_parts_lie(target))) == before


def test_options_are_the_same_in_any_order(rich: Family, tmp_path: Path) -> None:
    for part, names in ((1, ["one", "two", "three"]), (2, ["three", "two", "one"])):
        chosen = options(keep_private=frozenset(names), lambdas=dict.fromkeys(names, 0.3))
        pack_part(rich.base_path, rich.paths, tmp_path / "s", part, 2, chosen)
    assert seal(tmp_path / "s").summary.tasks


def test_threads_and_memory_may_differ(rich: Family, tmp_path: Path) -> None:
    for part, changes in ((1, {"jobs": 1}), (2, {"jobs": 3, "max_memory": 1 << 28})):
        chosen = options(keep_private=True, **changes)
        pack_part(rich.base_path, rich.paths, tmp_path / "s", part, 2, chosen)
    assert seal(tmp_path / "s", options(jobs=2)).summary.tasks


def test_a_store_that_is_there_is_kept(rich: Family, tmp_path: Path) -> None:
    chosen = options(keep_private=True)
    in_parts(rich, tmp_path / "s", chosen, parts=1)
    seal(tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(TargetExists):
        in_parts(rich, tmp_path / "s", chosen, parts=1)
    assert contents(tmp_path / "s") == before and not Path(where_parts_lie(tmp_path / "s")).exists()


@pytest.mark.parametrize("name", ["asked", "found", "unit-000001"])
def test_damaged_parts_are_refused(rich: Family, tmp_path: Path, name: str) -> None:
    target = tmp_path / "s"
    in_parts(rich, target, options(keep_private=True), parts=1)
    (path,) = Path(where_parts_lie(target)).rglob(name)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError, match=f"{name} of the parts is damaged"):
        seal(target)
    assert not target.exists()


def test_what_a_writer_of_another_pack_leaves_is_not_read(rich: Family, tmp_path: Path) -> None:
    """A machine that was cut off writes a unit after its pack was given up."""
    target = tmp_path / "s"
    in_parts(rich, target, options(keep_private=True, lam=0.9), parts=1)
    for name in ("asked", "found"):
        (Path(where_parts_lie(target)) / name).unlink()
    chosen = options(keep_private=True)
    in_parts(rich, target, chosen, parts=1)
    seal(target)
    taskstore.pack(rich.base_path, rich.paths, tmp_path / "one", chosen)
    assert contents(target) == contents(tmp_path / "one")


def test_streams_that_are_cut_off_are_refused(rich: Family, tmp_path: Path) -> None:
    target = tmp_path / "s"
    in_parts(rich, target, options(keep_private=True), parts=1)
    (path,) = Path(where_parts_lie(target)).rglob("unit-000001.0")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError):
        seal(target)
    assert not target.exists()


def test_a_model_that_is_another_on_this_machine_is_refused(small: Family, tmp_path: Path) -> None:
    copies = {name: tmp_path / name for name in small.paths}
    for name, path in small.paths.items():
        shutil.copytree(path, copies[name])
    pack_part(small.base_path, copies, tmp_path / "s", 1, 1, options())
    (copies["alpha"] / "own.txt").write_text("longer than it was")
    with pytest.raises(InputError, match="has other tensors"):
        seal(tmp_path / "s")
