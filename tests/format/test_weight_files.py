"""SPEC.md section 5, `shards`: weight files come back byte for byte, however they were written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import CheckpointError, OutputError
from taskstore.locations.ownership import NOTE
from taskstore.models import open_checkpoint
from taskstore.packing.changes.tasks import remove
from taskstore.packing.revise import add, record, retier
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.evaluators import run
from tests.support.families import contents, options
from tests.support.forge import Document
from tests.support.oddly import INDEX, ONE, odd, packed, rich_family, write


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> families.Family:
    return rich_family(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="module")
def kept(rich: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of `rich`; never written to."""
    return packed(rich, tmp_path_factory.mktemp("kept") / "store", tiers="exact").path


def comes_back(store: taskstore.Store, family: families.Family, scratch: Path) -> bool:
    """Every file of every model, bases included, and no other."""
    originals: dict[str | None, Path] = {None: family.base_path}
    originals |= {task: family.paths[task] for task in store.tasks}
    return all(
        contents(store.unpack(task, scratch / (task or "base"), overwrite=True)) == contents(path)
        for task, path in originals.items()
    )


def test_every_file_comes_back(kept: Path, rich: families.Family, tmp_path: Path) -> None:
    store = taskstore.open(kept)
    assert store.manifest.version == 4
    assert comes_back(store, rich, tmp_path)
    assert verify(store, deep=True).ok
    assert verify(store).unlisted == []
    store.unpack_all(tmp_path / "all")
    assert all(contents(tmp_path / "all" / t) == contents(p) for t, p in rich.paths.items())


@pytest.mark.parametrize("base", ["embed", "reference"])
def test_a_store_of_masks_keeps_the_bases_files(
    base: str, rich: families.Family, tmp_path: Path
) -> None:
    """Its own only: what is rebuilt from masks are no original files."""
    store = packed(rich, tmp_path / "s", base=base)
    assert store.manifest.version == 4
    assert (store.manifest.base.shards is not None) == (base == "embed")
    assert all(task.shards is None for task in store.manifest.tasks.values())
    if base == "embed":
        assert contents(store.unpack(None, tmp_path / "base")) == contents(rich.base_path)
    assert (store.unpack("one", tmp_path / "one") / "model.safetensors").exists()


def test_a_usual_base_is_not_noted(small: families.Family, tmp_path: Path) -> None:
    store = packed(small, tmp_path / "s")
    assert store.manifest.base.shards is None
    assert comes_back(packed(small, tmp_path / "exact", tiers="exact"), small, tmp_path / "out")


def test_single_files(tmp_path: Path) -> None:
    """Named as they are, in no order, with and without metadata; --overwrite knows them again."""
    base = families.random_state(0)
    state = families.tuned(base, 1)
    order = sorted(base)[1:] + sorted(base)[:1]
    write(tmp_path / "base.safetensors", base, order, padding=1)
    write(tmp_path / "tuned.safetensors", state, order, metadata={"b": "1", "a": "2"})
    taskstore.pack(
        tmp_path / "base.safetensors", {"a": tmp_path / "tuned.safetensors"}, tmp_path / "s",
        options(tiers="exact"),
    )  # fmt: skip
    store = taskstore.open(tmp_path / "s")
    for _ in range(2):
        store.unpack("a", tmp_path / "m", overwrite=True)
        expected = {"tuned.safetensors": (tmp_path / "tuned.safetensors").read_bytes()}
        assert contents(tmp_path / "m") == expected
    store.unpack(None, tmp_path / "m", overwrite=True)
    (tmp_path / "m" / "more.safetensors").write_bytes(b"")
    with pytest.raises(OutputError, match="not something that taskstore wrote"):
        store.unpack("a", tmp_path / "m", overwrite=True)


def test_the_users_shard_size_wins(kept: Path, rich: families.Family, tmp_path: Path) -> None:
    code, _, err = run("unpack", kept, "one", "--exact", "-o", tmp_path / "as-it-was")
    assert code == 0, err
    assert contents(tmp_path / "as-it-was") == contents(rich.paths["one"])
    assert run("unpack", kept, "one", "--shard-size", "5GB", "-o", tmp_path / "one")[0] == 0
    assert [p.name for p in (tmp_path / "one").glob("*.safetensors*")] == ["model.safetensors"]
    with_shards = open_checkpoint(rich.paths["one"])
    without = open_checkpoint(tmp_path / "one")
    assert with_shards.tensors == without.tensors
    for name, info in without.tensors.items():
        assert (with_shards.read(name, 0, info.numel) == without.read(name, 0, info.numel)).all()
    with_shards.close()
    without.close()


def test_other_sources_are_converted(tmp_path: Path) -> None:
    base = families.random_state(0)
    family = families.Family(tmp_path, base, {"a": families.tuned(base, 1)})
    (family.paths["a"] / "model.safetensors").unlink()
    torch.save(family.tasks["a"], family.paths["a"] / "pytorch_model.bin")
    store = packed(family, tmp_path / "s", tiers="exact")
    assert store.manifest.tasks["a"].shards is None
    assert (store.unpack("a", tmp_path / "out") / "model.safetensors").exists()


def test_names_that_no_store_may_hold_are_converted(tmp_path: Path) -> None:
    base = families.random_state(0)
    family = families.Family(tmp_path, base, {"a": families.tuned(base, 1)}, odd)
    folder = family.paths["a"]
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace(ONE, ".hidden\\u0007.safetensors"))
    (folder / ONE).rename(folder / ".hidden\x07.safetensors")
    store = packed(family, tmp_path / "s", tiers="exact")
    assert store.manifest.tasks["a"].shards is None
    assert store.manifest.base.shards is not None
    store.unpack("a", tmp_path / "out")


def test_a_file_that_changes_meanwhile(rich: families.Family, tmp_path: Path) -> None:
    path = Path(shutil.copytree(rich.paths["one"], tmp_path / "one"))
    model = open_checkpoint(path)
    with open(path / ONE, "ab") as file:
        file.write(b"x")
    assert model.originals is not None
    with pytest.raises(CheckpointError, match="has changed while it was packed"):
        model.originals.files[0].digest()
    model.close()


# Revisions


def test_revisions_carry_them(rich: families.Family, kept: Path, tmp_path: Path) -> None:
    """add, retier, record and remove, in this order, and always what packing would give."""
    two = {task: rich.paths[task] for task in ("one", "two")}
    taskstore.pack(rich.base_path, two, tmp_path / "s", options(tiers="exact"))
    add(taskstore.open(tmp_path / "s"), {"three": rich.paths["three"]})
    expected, found = contents(kept), contents(tmp_path / "s")
    folder = taskstore.open(tmp_path / "s").manifest.tasks["three"].folder
    found = {path.replace(f"tasks/{folder}/", "tasks/three/"): raw for path, raw in found.items()}
    changed = {"README.md", "taskstore.json"}  # the lambda, which exact tasks do not use
    assert found.keys() == expected.keys()
    assert all(found[path] == expected[path] for path in found.keys() - changed)
    assert comes_back(taskstore.open(tmp_path / "s"), rich, tmp_path / "added")

    retier(taskstore.open(kept), options(tiers="exact"), tmp_path / "again")
    assert contents(tmp_path / "again") == expected
    retier(taskstore.open(kept), options(), tmp_path / "masks")
    assert contents(tmp_path / "masks") == contents(packed(rich, tmp_path / "direct").path)

    record(taskstore.open(tmp_path / "again"), "accuracy", {})
    store = remove(taskstore.open(tmp_path / "again"), ["one", "two"])
    assert store.manifest.version == 5  # what was done to it stands in it
    assert comes_back(store, rich, tmp_path / "removed")
    assert verify(store, deep=True).ok
    listed = {f"assets/{digest}" for digest in store.manifest.assets}
    assert listed == {path for path in contents(store.path) if path.startswith("assets/")}


def test_an_archive_of_version_2_grows(small: families.Family, tmp_path: Path) -> None:
    """Its tasks stay without files of their own; a new one has them."""
    paths = {task: small.paths[task] for task in ("alpha", "beta")}
    taskstore.pack(small.base_path, paths, tmp_path / "s", options(tiers="exact"))

    def older(d: Document) -> None:
        d["version"] = 2
        del d["vectors"]
        for model in (d["base"], *d["tasks"].values()):
            del model["shards"]

    forge.edit(tmp_path / "s", older)
    add(taskstore.open(tmp_path / "s"), {"new": odd(tmp_path / "new", small.tasks["gamma"])})
    store = taskstore.open(tmp_path / "s")
    assert [task.shards is None for task in store.manifest.tasks.values()] == [True, True, False]
    assert contents(store.unpack("new", tmp_path / "out")) == contents(tmp_path / "new")
    found = contents(store.unpack("beta", tmp_path / "b"))
    assert found.pop(NOTE)
    assert found == contents(small.paths["beta"])


@given(st.data())
def test_any_order_and_any_split(
    small: families.Family, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("any")
    state = {**small.tasks["alpha"], "empty": torch.ones(0, 3), "ids": torch.arange(5)}
    order = data.draw(st.permutations(sorted(state)))
    shards = data.draw(st.integers(1, 4))
    place = {name: data.draw(st.integers(1, shards)) for name in order}
    families.save(root / "a", {"x": torch.ones(1)})
    (root / "a" / "model.safetensors").unlink()
    files = {i: f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)}
    for i, file in files.items():
        write(
            root / "a" / file,
            state,
            [name for name in order if place[name] == i],
            reverse=data.draw(st.booleans()),
            padding=data.draw(st.integers(0, 9)),
            indent=data.draw(st.sampled_from([None, 0, 2])),
            metadata=data.draw(st.none() | st.dictionaries(st.text(), st.text(), max_size=3)),
        )
    taskstore.pack(small.base_path, {"a": root / "a"}, root / "s", options(tiers="exact"))
    store = taskstore.open(root / "s")
    assert contents(store.unpack("a", root / "out")) == contents(root / "a")
    assert verify(store, deep=True).ok
    shutil.rmtree(root)
