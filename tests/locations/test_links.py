"""A link is followed within the model's own folder and to a hub cache's blobs, and nowhere else.

Each role that a file can play in a model's folder is played by a link to a file elsewhere, for each
command that reads models; what lies there comes out nowhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import taskstore
from taskstore.errors import CheckpointError, TaskstoreError
from taskstore.locations import files
from taskstore.merging import MergeOptions, merge
from taskstore.models import open_checkpoint
from taskstore.models.training_runs import expand
from taskstore.packing import revise
from taskstore.statistics import measured_model
from taskstore.store.verify import verify
from tests.support.families import Family, options, save

SECRET = "of somebody else"


def weights(family: Family, folder: Path) -> Path:
    save(folder, family.tasks["alpha"])
    return folder / "model.safetensors"


def pickled(family: Family, folder: Path) -> Path:
    weights(family, folder).unlink()
    torch.save(family.tasks["alpha"], folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def shard(family: Family, folder: Path) -> Path:
    save(folder, family.tasks["alpha"], shards=2)
    return folder / "model-00002-of-00002.safetensors"


def index(family: Family, folder: Path) -> Path:
    return shard(family, folder).with_name("model.safetensors.index.json")


def beside(name: str) -> Callable[[Family, Path], Path]:
    def make(family: Family, folder: Path) -> Path:
        save(folder, family.tasks["alpha"], files={name: json.dumps({"key": SECRET})})
        return folder / name

    return make


def adapter(family: Family, folder: Path) -> Path:
    folder.mkdir()
    rows, columns = family.base["layers.1.mlp.weight"].shape
    sides = {"A": torch.ones(2, columns), "B": torch.ones(rows, 2)}
    layer = "base_model.model.layers.1.mlp.lora_{}.weight"
    save_file({layer.format(s): t for s, t in sides.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return folder / "adapter_model.safetensors"


def adapter_config(family: Family, folder: Path) -> Path:
    return adapter(family, folder).with_name("adapter_config.json")


ROLES: dict[str, Callable[[Family, Path], Path]] = {
    "weights": weights,
    "pickled weights": pickled,
    "shard": shard,
    "index": index,
    "config": beside("config.json"),
    "tokenizer": beside("tokenizer.json"),
    "template": beside("chat_template.jinja"),
    "any file": beside("notes/environment.txt"),
    "adapter": adapter,
    "config of an adapter": adapter_config,
}
BASES = [role for role in ROLES if "adapter" not in role]
READERS: dict[str, Callable[[Family, Path, Path], object]] = {
    "pack": lambda f, m, out: taskstore.pack(f.base_path, {"t": m}, out / "s", options()),
    "merge": lambda f, m, out: merge(f.base_path, {"t": m}, out / "m", MergeOptions("sum")),
    "add": lambda f, m, out: revise.add(taskstore.open(out.parent / "exact"), {"t": m}),
    "pack, as base": lambda f, m, out: taskstore.pack(m, f.paths, out / "s", options()),
    "measure": lambda f, m, out: measured_model.load(str(m), "cpu").__enter__(),
}
PAIRS = [(r, c) for r in ROLES for c in READERS if r in BASES or c in ("pack", "merge", "add")]


def elsewhere(file: Path, tmp_path: Path) -> Path:
    """Move a file out of the model's folder and leave a link."""
    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir(exist_ok=True)
    file.rename(moved)
    file.symlink_to(moved)
    return moved


@pytest.mark.parametrize(("role", "reader"), PAIRS)
def test_a_link_that_leaves_the_folder(
    small: Family, tmp_path: Path, role: str, reader: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if reader == "add":
        exact = {"beta": small.paths["beta"]}
        taskstore.pack(small.base_path, exact, tmp_path / "exact", options(tiers="exact"))
    file = ROLES[role](small, tmp_path / "model")
    elsewhere(file, tmp_path)
    with pytest.raises(CheckpointError, match=f"{file.name}.*link to .*outside of its folder"):
        READERS[reader](small, tmp_path / "model", out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_link_inside_the_folder_is_followed(small: Family, tmp_path: Path, role: str) -> None:
    """Also where the folder itself is reached by a link."""
    file = ROLES[role](small, tmp_path / "model")
    (tmp_path / "model" / ".kept").mkdir()
    file.rename(tmp_path / "model" / ".kept" / file.name)
    file.symlink_to(tmp_path / "model" / ".kept" / file.name)
    (tmp_path / "link").symlink_to("model")
    taskstore.pack(small.base_path, {"t": tmp_path / "link"}, tmp_path / "s", options())


def test_a_weight_file_that_is_named_may_be_a_link(small: Family, tmp_path: Path) -> None:
    moved = elsewhere(weights(small, tmp_path / "model"), tmp_path)
    model = open_checkpoint(tmp_path / "model" / "model.safetensors")
    assert model.original_bytes == moved.stat().st_size
    model.close()


@pytest.mark.parametrize("blob", ["../../../elsewhere", "../../blobs/link", "../../refs/main"])
def test_only_blobs_of_the_same_repository(small: Family, tmp_path: Path, blob: str) -> None:
    home = tmp_path / "models--o--n"
    snapshot = save(home / "snapshots" / ("a" * 40), small.tasks["alpha"])
    for name in ("blobs", "refs"):
        (home / name).mkdir()
    (tmp_path / "elsewhere").write_text(SECRET)
    (home / "refs" / "main").write_text(SECRET)
    (home / "blobs" / "link").symlink_to(tmp_path / "elsewhere")
    (home / "blobs" / "plain").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/plain")
    open_checkpoint(snapshot).close()
    (snapshot / "key.json").symlink_to(blob if blob.startswith("../../b") else snapshot / blob)
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(snapshot)


def test_blobs_of_xet_are_shared_by_a_whole_cache(small: Family, tmp_path: Path) -> None:
    """A file of the hub's library says that they are; other folders of that name are refused."""
    snapshot = save(tmp_path / "models--o--n" / "snapshots" / ("a" * 40), small.tasks["alpha"])
    shared = tmp_path / "blobs" / "ab"
    shared.mkdir(parents=True)
    (shared / "abc").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to("../../../blobs/ab/abc")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(snapshot)
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    open_checkpoint(snapshot).close()
    (tmp_path / "elsewhere").write_text(SECRET)
    (shared / "link").symlink_to(tmp_path / "elsewhere")
    (snapshot / "key.json").symlink_to("../../../blobs/ab/link")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(snapshot)


def test_blobs_that_are_a_link(small: Family, tmp_path: Path) -> None:
    home = tmp_path / "models--o--n"
    snapshot = save(home / "snapshots" / ("a" * 40), small.tasks["alpha"])
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id").write_text(SECRET)
    (home / "blobs").symlink_to(tmp_path / "keys")
    (snapshot / "key.json").symlink_to("../../blobs/id")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(snapshot)


def test_a_checkpoint_of_a_run(small: Family, tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint-1", small.tasks["alpha"])
    (tmp_path / "run" / "checkpoint-2").symlink_to(small.paths["beta"])
    with pytest.raises(CheckpointError, match="checkpoint-2.*outside of its folder"):
        expand(tmp_path / "run")


def test_a_link_that_is_put_there_afterwards(
    small: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a model's files and their reading, one becomes a link, or its folder."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a.txt").write_text(SECRET)
    folder = save(tmp_path / "m", small.tasks["alpha"], files={"deep/a.txt": "mine"})
    model = open_checkpoint(folder)
    inside = model.assets["deep/a.txt"]
    for swap in ("file", "folder"):
        if swap == "file":
            inside.unlink()
            inside.symlink_to(tmp_path / "keys" / "a.txt")
        else:
            inside.unlink()
            inside.parent.rmdir()
            inside.parent.symlink_to(tmp_path / "keys")
        with pytest.raises(OSError, match=r"replaced|symbolic"):
            files.copy_regular(inside, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    model.close()
    real_open = os.open

    def swapped(path: object, flags: int, *more: object, **named: object) -> int:
        if str(path).endswith("b.txt"):
            (folder / "b.txt").unlink()
            (folder / "b.txt").symlink_to(tmp_path / "keys" / "a.txt")
        return real_open(path, flags, *more, **named)  # type: ignore[arg-type]

    (folder / "b.txt").write_text("mine")
    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match=r"replaced|symbolic"):
        files.read_regular(folder / "b.txt", 100, folder)


PARTS = ("taskstore.json", "base.safetensors", "tasks/alpha/masks.safetensors", "assets/*")
USES: dict[str, Callable[[Path, Path], object]] = {
    "unpack": lambda store, out: taskstore.open(store).unpack("alpha", out / "m"),
    "verify": lambda store, out: verify(taskstore.open(store), deep=True),
    "state": lambda store, out: dict(taskstore.open(store).state_dict("alpha")),
}


@pytest.mark.parametrize(
    ("part", "use"),
    [(p, u) for p in PARTS for u in USES if (p, u) != ("assets/*", "state")],  # weights alone
)
def test_a_file_of_a_store(packed: Path, tmp_path: Path, part: str, use: str) -> None:
    store = shutil.copytree(packed, tmp_path / "store")
    for file in store.glob(part):
        elsewhere(file, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(TaskstoreError, match="outside of its folder"):
        report = USES[use](store, out)
        raise TaskstoreError(str(report))
    assert list(out.iterdir()) == []
