"""Weights beside a model's own: carried whole in every tier, or said wherever it counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from taskstore_cli.main import main

import taskstore
from taskstore.errors import FormatError
from taskstore.merging import MergeOptions, merge
from taskstore.packing.revise import retier
from taskstore.store.verify import verify
from tests.support import forge
from tests.support.families import options, random_state, save, tuned

DENSE, HEAD, OLD = "2_Dense/model.safetensors", "value_head.safetensors", "2_Dense/old.bin"


def folder(root: Path, name: str, seed: int) -> Path:
    """A model with a module in a sub-folder, a value head and a pickle of tensors beside it."""
    base = random_state(0)
    path = save(
        root / name, tuned(base, seed) if seed else base, files={"2_Dense/config.json": "{}"}
    )
    save_file({"linear.weight": torch.full((4, 3), float(seed))}, path / DENSE)
    save_file({"v_head.weight": torch.full((1, 3), float(seed))}, path / HEAD)
    torch.save({"w": torch.full((2,), float(seed))}, path / OLD)
    torch.save({"step": torch.ones(1)}, path / "optimizer.pt")
    return path


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    return {name: folder(tmp_path, name, i) for i, name in enumerate(("base", "a", "b"))}


def pack(paths: dict[str, Path], target: Path, tiers: str, **more: object) -> taskstore.PackReport:
    tasks = {name: path for name, path in paths.items() if name != "base"}
    return taskstore.pack(paths["base"], tasks, target, options(tiers=tiers, **more))


@pytest.mark.parametrize("base", ["embed", "reference"])
@pytest.mark.parametrize("tiers", ["mask", "rest", "exact"])
def test_they_come_back_as_they_were(
    tiers: str, base: str, paths: dict[str, Path], tmp_path: Path
) -> None:
    pack(paths, tmp_path / "s", tiers, base=base)
    store = taskstore.open(tmp_path / "s")
    for name, path in paths.items():
        back = store.unpack(None if name == "base" else name, tmp_path / f"back-{name}")
        for file in (DENSE, HEAD, OLD):
            assert (back / file).read_bytes() == (path / file).read_bytes()
        assert not (back / "optimizer.pt").exists()
    assert verify(store, deep=True).ok
    assert store.summary().tasks[0].left_out == []


def test_they_stay_when_a_store_is_packed_again(paths: dict[str, Path], tmp_path: Path) -> None:
    pack(paths, tmp_path / "s", "exact")
    retier(taskstore.open(tmp_path / "s"), options(tiers="mask,exact"), tmp_path / "t")
    back = taskstore.open(tmp_path / "t").unpack("a", tmp_path / "back")
    assert (back / HEAD).read_bytes() == (paths["a"] / HEAD).read_bytes()


def test_what_an_archive_leaves_out_is_said_everywhere(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    (paths["a"] / "onnx").mkdir()
    (paths["a"] / "onnx" / "model.onnx").write_bytes(b"x")
    (paths["b"] / "head.bin").write_bytes(b"no pickle of tensors")
    report = pack(paths, tmp_path / "s", "exact")
    assert any("onnx/model.onnx" in w for w in report.warnings)
    store = taskstore.open(tmp_path / "s")
    left = {t.name: t.left_out for t in store.summary().tasks}
    assert left == {"a": ["onnx/model.onnx"], "b": ["head.bin"]}
    assert verify(store).left_out == ["onnx/model.onnx of a", "head.bin of b"]
    assert "- a: onnx/model.onnx" in (tmp_path / "s" / "README.md").read_text()
    run = CliRunner()
    told = [
        run.invoke(main, ["info", str(store.path)]),
        run.invoke(main, ["verify", str(store.path)]),
        run.invoke(main, ["unpack", str(store.path), "a", "--exact", "-o", str(tmp_path / "out")]),
    ]
    assert all(r.exit_code == 0 and "onnx/model.onnx" in r.output for r in told)


def test_a_merge_says_that_it_copies_them(paths: dict[str, Path], tmp_path: Path) -> None:
    tasks = {name: paths[name] for name in "ab"}
    report = merge(paths["base"], tasks, tmp_path / "m", MergeOptions("average", jobs=1))
    assert "not merged; taken from base" in report.notes[DENSE]
    merged = load_file(tmp_path / "m" / DENSE)
    assert not merged["linear.weight"].any()


NAMES = ("model.safetensors", "pytorch_model.bin", "a/../x.pt", "a.pickle", ".x.pt", "x.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_store_with_another_name_is_refused(
    name: str, paths: dict[str, Path], tmp_path: Path
) -> None:
    pack(paths, tmp_path / "s", "mask")
    digest = taskstore.open(tmp_path / "s").manifest.tasks["a"].beside
    assert digest
    forge.edit(tmp_path / "s", lambda d: d["tasks"]["a"]["beside"].update({name: digest[HEAD]}))
    with pytest.raises(FormatError):
        taskstore.open(tmp_path / "s")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("bomb",)


def test_a_pickle_in_a_store_is_checked_before_it_is_written(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store by someone else may hold any bytes under the name of a good file."""
    torch.save({"w": Bomb()}, paths["a"] / OLD)
    monkeypatch.setattr("taskstore.models.assets._pickle", lambda _: None)
    pack(paths, tmp_path / "s", "mask")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="pickle that is not plain tensors"):
        taskstore.open(tmp_path / "s").unpack("a", tmp_path / "back")
    assert not (tmp_path / "back").exists() and not Path("bomb").exists()
