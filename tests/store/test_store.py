"""Opening, rebuilding, unpacking, verifying, with and without a carried base."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import taskstore
from taskstore.errors import (
    BaseUnavailable,
    ChecksumMismatch,
    FormatError,
    InputError,
    OutputError,
    TargetExists,
    TaskstoreError,
    UnknownTask,
)
from taskstore.locations.ownership import NOTE
from taskstore.progress import Progress
from taskstore.store.verify import verify
from tests.support import families
from tests.support.families import Family, options, same


def test_importing_and_opening_needs_no_torch(packed: Path) -> None:
    code = (
        "import sys, taskstore; s = taskstore.open(sys.argv[1]); s.summary(); print(s.tasks); "
        "heavy = {'torch', 'taskstore.native', 'numpy', 'click'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, packed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['alpha', 'beta', 'gamma']\n"


def test_exported_names() -> None:
    assert set(taskstore.__all__) <= set(dir(taskstore))
    assert all(getattr(taskstore, name) is not None for name in taskstore.__all__)
    assert callable(taskstore.pack)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = taskstore.nothing


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_folder_of_a_task(packed: Path, small: Family, tmp_path: Path, jobs: int) -> None:
    store = taskstore.open(packed)
    seen: list[Progress] = []
    store.unpack("beta", tmp_path / "m", jobs=jobs, progress=seen.append)
    assert seen[-1].done == seen[-1].total > 0
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    rebuilt = store.state_dict("beta")
    assert loaded.keys() == rebuilt.keys()
    assert all(same(loaded[name], rebuilt[name]) for name in loaded)
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert (tmp_path / "m" / "own.txt").read_text() == "beta"
    assert (tmp_path / "m" / "tokenizer.json").read_text() == '{"shared": true}'
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        NOTE, "README.md", "config.json", "model.safetensors", "own.txt", "tokenizer.json",
    ]  # fmt: skip


def test_the_base_comes_back_byte_for_byte(packed: Path, small: Family, tmp_path: Path) -> None:
    """Its file too, since safetensors wrote it in the order that we write."""
    taskstore.open(packed).unpack(None, tmp_path / "base")
    original = (small.base_path / "model.safetensors").read_bytes()
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == original


def test_shards_and_index(packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    store.unpack("alpha", tmp_path / "m", shard_bytes=1500)
    shards = sorted((tmp_path / "m").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    model = taskstore.models.open_checkpoint(tmp_path / "m")
    assert sorted(model.tensors) == sorted(store.manifest.tasks["alpha"].tensors)
    model.close()


def test_all_tasks(packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    store.unpack_all(tmp_path / "all")
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == store.tasks
    for task in store.tasks:
        assert same(
            load_file(tmp_path / "all" / task / "model.safetensors")["norm.weight"],
            store.tensor(task, "norm.weight"),
        )
    store.unpack_all(tmp_path / "all", overwrite=True)


def test_targets(packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    store.unpack("alpha", tmp_path / "m")
    with pytest.raises(TargetExists):
        store.unpack("beta", tmp_path / "m")
    store.unpack("beta", tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "own.txt").read_text() == "beta"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="not something that taskstore wrote"):
        store.unpack("beta", tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_unknown_names(packed: Path, tmp_path: Path) -> None:
    store = taskstore.open(packed)
    with pytest.raises(UnknownTask, match="no task 'alpah' in this store; did you mean 'alpha'"):
        store.unpack("alpah", tmp_path / "m")
    with pytest.raises(UnknownTask, match="it has alpha, beta, gamma"):
        store.state_dict("zzz")
    with pytest.raises(InputError, match="task 'alpha' has no tensor 'nope'"):
        store.tensor("alpha", "nope")
    assert list(tmp_path.iterdir()) == []


def test_verify(packed: Path, tmp_path: Path) -> None:
    report = verify(taskstore.open(packed), deep=True)
    assert report.ok
    assert report.tensors == 4 * len(families.SHAPES)
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    (copy / "notes.txt").write_text("mine")
    (copy / "multitask.safetensors").unlink()
    mask = copy / "tasks" / "beta" / "masks.safetensors"
    mask.write_bytes(mask.read_bytes()[:-1])
    report = verify(taskstore.open(copy), deep=True)
    assert report.unlisted == ["notes.txt"]
    text = "\n".join(report.problems)
    assert "multitask.safetensors is missing from the store" in text
    assert "tasks/beta/masks.safetensors has" in text


def test_what_a_task_does_not_read_may_be_missing(packed: Path, tmp_path: Path) -> None:
    """One task can be fetched alone."""
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    shutil.rmtree(copy / "tasks" / "gamma")
    store = taskstore.open(copy)
    store.unpack("alpha", tmp_path / "m")
    with pytest.raises(TaskstoreError, match="tasks/gamma/masks.safetensors is missing"):
        store.unpack_all(tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_wrong_mask_is_found_by_the_rebuilt_checksum(packed: Path, tmp_path: Path) -> None:
    """state_dict does not read whole files first, so the tensor's own checksum must tell."""
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    masks = [copy / "tasks" / t / "masks.safetensors" for t in ("alpha", "beta")]
    raw = bytearray(masks[0].read_bytes())
    raw[-100] ^= 0x01
    masks[0].write_bytes(raw)
    with pytest.raises(TaskstoreError):
        taskstore.open(copy).state_dict("alpha")


@pytest.fixture
def referenced(small: Family, tmp_path: Path) -> tuple[Path, Path]:
    """A store that only references its base, and that base."""
    base = tmp_path / "elsewhere" / "base"
    shutil.copytree(small.base_path, base)
    taskstore.pack(base, small.paths, tmp_path / "ref", options(base="reference"))
    return tmp_path / "ref", base


def test_a_referenced_base(
    referenced: tuple[Path, Path], packed: Path, small: Family, tmp_path: Path
) -> None:
    path, base = referenced
    store = taskstore.open(path)
    assert not list(path.glob("base*"))
    assert store.summary().base_source == str(base)
    assert store.summary().original_bytes < taskstore.open(packed).summary().original_bytes
    assert verify(store, deep=True).ok
    ours, theirs = store.state_dict("beta"), taskstore.open(packed).state_dict("beta")
    assert all(same(ours[name], theirs[name]) for name in theirs)
    store.unpack(None, tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").exists()
    loaded = load_file(tmp_path / "again" / "model.safetensors")
    assert all(same(loaded[name], small.base[name]) for name in small.base)


def test_a_referenced_base_that_moved(referenced: tuple[Path, Path], tmp_path: Path) -> None:
    path, base = referenced
    base.rename(tmp_path / "moved")
    with pytest.raises(BaseUnavailable, match=r"it is not at .*base=FOLDER"):
        taskstore.open(path).unpack("alpha", tmp_path / "m")
    taskstore.open(path, base=tmp_path / "moved").unpack("alpha", tmp_path / "m")
    problems = verify(taskstore.open(path), deep=True).problems
    assert any("only references its base" in problem for problem in problems)


def test_a_referenced_base_that_changed(
    referenced: tuple[Path, Path], small: Family, tmp_path: Path
) -> None:
    path, base = referenced
    state = dict(small.base)
    state["norm.weight"] = state["norm.weight"].clone()
    state["norm.weight"].view(torch.int16)[5] ^= 1
    save_file(state, base / "model.safetensors")
    with pytest.raises(BaseUnavailable, match="it has changed: tensor 'norm.weight'"):
        taskstore.open(path).unpack("alpha", tmp_path / "m")
    del state["scale"]
    save_file(state, base / "model.safetensors")
    with pytest.raises(BaseUnavailable, match="it has changed: tensor 'scale' is not as it was"):
        taskstore.open(path).state_dict("alpha")
    assert not (tmp_path / "m").exists()


def test_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, match in (
        ("none", "no such folder"), ("empty", "holds no taskstore.json"), ("file", "not a folder")
    ):  # fmt: skip
        with pytest.raises(TaskstoreError, match=match):
            taskstore.open(tmp_path / name)


def test_a_changed_manifest(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    text = (copy / "taskstore.json").read_text()
    (copy / "taskstore.json").write_text(text.replace('"lambda": 0.4', '"lambda": 0.5', 1))
    with pytest.raises(ChecksumMismatch, match=r"taskstore\.json is damaged"):
        taskstore.open(copy)


def test_a_store_that_goes_while_it_is_looked_at(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = taskstore.open(shutil.copytree(packed, tmp_path / "copy"))
    figures = store.summary()
    (tmp_path / "copy" / "taskstore.json").unlink()
    assert store.summary() == figures

    def gone(*_: object) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "glob", gone)
    with pytest.raises(FormatError, match="holds no taskstore.json"):
        taskstore.open(tmp_path / "copy")


def test_a_store_is_a_collection_of_its_tasks(packed: Path) -> None:
    store = taskstore.open(packed)
    assert (len(store), list(store)) == (3, ["alpha", "beta", "gamma"])
    assert "beta" in store and "delta" not in store and None not in store and 1 not in store
    assert store.verify(deep=True).ok


def test_a_notebook_shows_a_small_table_with_every_name_escaped(
    small: families.Family, tmp_path: Path
) -> None:
    name = "<b>&amp"
    taskstore.pack(small.base_path, {name: small.paths["alpha"]}, tmp_path / "<i>store")
    html = taskstore.open(tmp_path / "<i>store")._repr_html_()
    assert "&lt;b&gt;&amp;amp" in html and "&lt;i&gt;store" in html
    assert "<b>" not in html and "<i>" not in html
    assert html.count("<tr>") == 2 and "not measured" in html
