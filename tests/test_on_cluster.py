"""What runs on a cluster gives what it gives here; tests/test_cluster.py has a real one."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from taskstore_cli.main import main

import taskstore
from taskstore import AddOptions, MergeOptions
from taskstore.errors import ChecksumMismatch, OptionError
from taskstore.merging.mergekit import recipe
from taskstore.merging.mergekit.assembled import merge_recipe
from taskstore.packing.parts import units
from tests.support import families
from tests.support.elsewhere import another_process
from tests.support.families import Family, contents, options


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LEAST", 3000)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("rich"), *families.rich_states())


@pytest.fixture(scope="module")
def archive(rich: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the tasks, exact; never written to."""
    target = tmp_path_factory.mktemp("archive") / "s"
    chosen = options(tiers="exact", keep_private=True)
    taskstore.pack(rich.base_path, dict(list(rich.paths.items())[:2]), target, chosen)
    return target


def copied(store: Path, target: Path) -> Path:
    return Path(shutil.copytree(store, target))


def data_of(store: Path) -> dict[str, bytes]:
    """All but the manifest, which tells when, and the card."""
    return {n: b for n, b in contents(store).items() if n != "taskstore.json" and n[0] != "."}


@pytest.mark.parametrize(
    "how",
    [
        {"tiers": "exact"},
        {"tiers": "rest", "residuals": {}},
        {"repack": True},
    ],
    ids=["exact", "rest", "repack"],
)
def test_add(rich: Family, archive: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    name, path = list(rich.paths.items())[-1]
    chosen = AddOptions(keep_private=True, **how)
    one, many = copied(archive, tmp_path / "one"), copied(archive, tmp_path / "many")
    taskstore.add(one, {name: path}, chosen)
    with another_process() as other:
        taskstore.add(many, {name: path}, chosen)
    assert "code_part" in other.did and "join_file" in other.did
    assert data_of(many) == data_of(one)
    assert taskstore.verify(many, deep=True).ok
    assert {p.name for p in tmp_path.iterdir()} == {"one", "many"}


def test_add_of_masks(rich: Family, tmp_path: Path) -> None:
    *first, (name, path) = rich.paths.items()
    chosen = options(method="lsq", keep_private=True)
    taskstore.pack(rich.base_path, dict(first), tmp_path / "one", chosen)
    many = copied(tmp_path / "one", tmp_path / "many")
    how = AddOptions(tiers="mask", max_error=9.0, keep_private=True)
    taskstore.add(tmp_path / "one", {name: path}, how)
    with another_process() as other:
        taskstore.add(many, {name: path}, how)
    assert "code_part" in other.did
    assert data_of(many) == data_of(tmp_path / "one")


@pytest.mark.parametrize("place", ["its own", "a new one"])
@pytest.mark.parametrize("tiers", ["mask,exact", "rest"])
def test_retier(archive: Path, tmp_path: Path, place: str, tiers: str) -> None:
    from taskstore.packing.revise import retier

    chosen = options(tiers=tiers, **({"method": "ties"} if "mask" in tiers else {}))
    stores = [copied(archive, tmp_path / name) for name in ("one", "many")]
    targets = [None if place == "its own" else store.with_name(f"{store.name}-2")
               for store in stores]  # fmt: skip
    retier(taskstore.open(stores[0]), chosen, targets[0])
    with another_process() as other:
        retier(taskstore.open(stores[1]), chosen, targets[1])
    assert "code_part" in other.did
    one, many = (target or store for target, store in zip(targets, stores, strict=True))
    assert data_of(many) == data_of(one)


def test_a_store_that_decodes_wrongly_is_found(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are as listed; a tensor's checksum is not, so what others read is proved there."""
    from taskstore.packing.revise import retier
    from taskstore.store.as_checkpoint import StoredReader

    prove = StoredReader.prove

    def wrong(self: StoredReader) -> None:
        prove(self)
        raise ChecksumMismatch("a tensor", "a", "b")

    with another_process() as other, monkeypatch.context() as patched:
        patched.setattr(StoredReader, "prove", wrong)
        with pytest.raises(ChecksumMismatch):
            retier(taskstore.open(archive), options(tiers="rest"), tmp_path / "new")
    assert other.did[-1] == "code_part" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["lsq", "ties", "wudi"])
@pytest.mark.parametrize("of", ["models", "a store"])
def test_merge(rich: Family, archive: Path, tmp_path: Path, method: str, of: str) -> None:
    chosen = MergeOptions(method, shard_bytes=4000, unrelated=True)
    base, models = (archive, None) if of == "a store" else (rich.base_path, rich.paths)
    taskstore.merge(base, models, tmp_path / "one", chosen)
    with another_process() as other:
        taskstore.merge(base, models, tmp_path / "many", chosen)
    assert {"put_tensor", "join_file"} <= {*other.did}
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_unpack_all(archive: Path, tmp_path: Path) -> None:
    store = taskstore.open(archive)
    store.unpack_all(tmp_path / "one")
    with another_process() as other:
        store.unpack_all(tmp_path / "many")
    assert "_write_apart" in other.did
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_verify(archive: Path, tmp_path: Path) -> None:
    with another_process() as other:
        assert taskstore.verify(archive, deep=True) == taskstore.verify(archive, deep=True)
        assert other.did.count("_proved_apart") == 2 * 3
    report = taskstore.verify(archive, deep=True)
    with another_process():
        assert taskstore.verify(archive, deep=True) == report
    broken = copied(archive, tmp_path / "broken")
    path = next(broken.rglob("tasks/*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9] + b"?" * 9)
    report = taskstore.verify(broken, deep=True)
    with another_process():
        found = taskstore.verify(broken, deep=True)
    assert not found.ok and {*found.problems} == {*report.problems} and found.lost == report.lost


def test_eval(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        "import pathlib, sys; print(len(pathlib.Path(sys.argv[1], 'model.safetensors').read_bytes()"
        " ) + len(sys.argv[2]))"
    )
    command = f"{sys.executable} {tmp_path / 'score.py'} {{model}} {{task}}"
    store = taskstore.open(archive)
    here = taskstore.evaluate(store, command, base=True)
    with another_process() as other:
        there = taskstore.evaluate(store, command, base=True)
        assert other.did == ["_score"] * 4
        with pytest.raises(OptionError, match="in folders"):
            taskstore.evaluate(store, callback=lambda model, tokenizer, task: 1.0)
    assert there.to_dict() == here.to_dict()


def test_the_option_joins_a_cluster(archive: Path, tmp_path: Path) -> None:
    """Each command has it, and refuses it where it would do nothing."""
    say = CliRunner()
    for words, status in (
        (["verify", archive, "--cluster", "no:where"], 2),
        (["unpack", archive, "one", "-o", tmp_path / "x", "--cluster", "auto"], 2),
        (["eval", archive, "--lm-eval", "gsm8k", "--cluster", "auto"], 2),
        (["verify", archive, "--resume"], 2),
    ):
        found = say.invoke(main, [*map(str, words)])
        assert found.exit_code == status, found.output
        assert "does nothing" in found.output or "cannot be joined" in found.output
    for command in ("add", "replace", "retier", "merge"):
        shown = say.invoke(main, [command, "--help"]).output
        assert "--cluster" in shown and "--resume" in shown


def test_a_store_that_was_changed_is_told(archive: Path, rich: Family, tmp_path: Path) -> None:
    import pickle

    store = taskstore.open(copied(archive, tmp_path / "s"))
    sent = pickle.dumps(store)
    assert pickle.loads(sent).version == store.version
    taskstore.remove(tmp_path / "s", store.tasks[:1])
    with pytest.raises(taskstore.TaskstoreError, match="changed by another taskstore"):
        pickle.loads(sent)


SLICES = """
slices:
  - sources: [{model: %(base)s, layer_range: [0, 1]}, {model: %(one)s, layer_range: [0, 1]}]
  - sources: [{model: %(one)s, layer_range: [0, 2]}, {model: %(base)s, layer_range: [0, 2]}]
merge_method: %(method)s
base_model: %(base)s
parameters: %(parameters)s
dtype: float32
"""


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", "{density: 0.5, weight: [0.2, 1.0]}"),
        ("dare_linear", "{density: 0.5, weight: 0.7}"),
        ("slerp", "{t: [0, 0.5, 1]}"),
    ],
)
def test_slices_of_a_recipe(tmp_path: Path, method: str, parameters: str) -> None:
    """Layers that stand twice or change places, each tensor with its own numbers."""
    shapes: dict[str, tuple[int, ...]] = {f"model.layers.{n}.mlp.weight": (48, 32) for n in (0, 1)}
    shapes |= {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,)}
    family = families.family(tmp_path / "f", shapes=shapes)
    names = {"base": family.base_path, "one": next(iter(family.paths.values()))}
    (tmp_path / "r.yaml").write_text(SLICES % {**names, "method": method, "parameters": parameters})
    read = recipe.read(tmp_path / "r.yaml")
    chosen = replace(read.options, shard_bytes=4000, unrelated=True)
    merge_recipe(read, tmp_path / "one", chosen)
    with another_process() as other:
        merge_recipe(read, tmp_path / "many", chosen)
    assert {"put_tensor", "join_file"} <= {*other.did}
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len([*(tmp_path / "one").glob("*.safetensors")]) > 1
