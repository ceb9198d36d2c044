"""Reading models: every layout that comes in, and what is refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskstore
from taskstore.errors import CheckpointError
from taskstore.models import open_checkpoint
from tests.support import families, forge
from tests.support.families import State, options, random_state, save


def contents(path: Path) -> dict[str, bytes]:
    """Every tensor's bytes, read in blocks."""
    checkpoint = open_checkpoint(path)
    found = {}
    for name, info in checkpoint.tensors.items():
        starts = range(0, info.numel, 100)
        parts = [checkpoint.read(name, s, min(s + 100, info.numel)) for s in starts]
        found[name] = b"".join(part.tobytes() for part in parts)
        assert all(part.dtype.kind == "u" for part in parts)
    checkpoint.close()
    return found


def expected(state: State) -> dict[str, bytes]:
    return {name: families.bits(t).numpy().tobytes() for name, t in state.items()}


STATE: State = {
    **random_state(0),
    "ids": torch.arange(300),
    "flag": torch.tensor([True, False]),
    "double": torch.randn(5, dtype=torch.float64),
    "fp8": torch.randn(9).to(torch.float8_e4m3fn),
    "half": torch.randn(7).half(),
}


@pytest.mark.parametrize("shards", [1, 3])
def test_safetensors_folders(tmp_path: Path, shards: int) -> None:
    assert contents(save(tmp_path / "m", STATE, shards=shards)) == expected(STATE)


def test_shards_without_an_index(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", STATE, shards=3)
    (folder / "model.safetensors.index.json").unlink()
    assert contents(folder) == expected(STATE)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no index and not all of its shards"):
        open_checkpoint(folder)


def test_a_single_file_of_any_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "mine.safetensors")
    assert contents(tmp_path / "mine.safetensors") == expected(STATE)
    assert contents(tmp_path) == expected(STATE)
    assert open_checkpoint(tmp_path / "mine.safetensors").name == "mine"


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_plain_tensors(tmp_path: Path, zipped: bool) -> None:
    """Non-contiguous and tied tensors among them; the old form is older than fp8."""
    matrix = torch.randn(20, 30)
    state = OrderedDict(
        {**STATE, "turned": matrix.T, "part": matrix[:, 3:5], "tied": STATE["norm.weight"]}
    )
    if not zipped:
        del state["fp8"]
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert contents(tmp_path) == expected(state)


def test_sharded_pickles(tmp_path: Path) -> None:
    names = list(STATE)
    place: dict[str, str] = {}
    for i in range(2):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({n: STATE[n] for n in names[i::2]}, tmp_path / file)
        place |= dict.fromkeys(names[i::2], file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    assert contents(tmp_path) == expected(STATE)


def test_a_pickled_family_packs_like_a_safetensors_one(
    small: families.Family, packed: Path, tmp_path: Path
) -> None:
    def saver(folder: Path, state: State, files: object = None) -> Path:
        folder.mkdir(parents=True)
        torch.save(state, folder / "pytorch_model.bin")
        return folder

    family = families.Family(tmp_path, small.base, small.tasks, saver)
    taskstore.pack(family.base_path, family.paths, tmp_path / "s", options())
    for path in ("base.safetensors", "multitask.safetensors", "tasks/beta/masks.safetensors"):
        assert (tmp_path / "s" / path).read_bytes() == (packed / path).read_bytes()


class Evil:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def stretched() -> torch.Tensor:
    """Four bytes that claim to be 4 TB."""
    return torch.zeros(1).expand(1 << 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: {"a": Evil(path)}, "pickle that is not plain tensors"),
        (lambda _: {"ema": {"a": torch.ones(1)}}, "'ema' is a dict"),
        (lambda _: [torch.ones(1)], "is not a dict of tensors but a list"),
        (lambda _: {"a": 1}, "'a' is a int"),
        (lambda _: {"a": torch.ones(3).to_sparse()}, "sparse"),
        (lambda _: {"a": torch.ones(3, dtype=torch.complex128)}, "complex128"),
        (lambda _: {"a": stretched()}, "claims more elements than are stored"),
        (lambda _: {"a\nb": torch.ones(1)}, "control character"),
        (lambda _: {1: torch.ones(1)}, "is not a flat dict of tensors"),
    ],
)
def test_other_pickles(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(make(tmp_path / "created"), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "pytorch_model.bin" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 2000])
def test_broken_pickles(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0, 3e-4, 0.01, 0.5, 0.999])
def test_truncated_safetensors(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "m", STATE) / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is truncated|belong to no"):
        open_checkpoint(tmp_path / "m")


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    path.write_bytes(forge.join(json.dumps(header).encode(), raw[8 + length :]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["norm.weight"].update(shape=[17]), "'norm.weight' of shape .* needs 34"),
        (lambda h: h["norm.weight"].update(dtype="F4"), "dtype 'F4', which is not supported"),
        (lambda h: h["norm.weight"].update(dtype=3), "not supported"),
        (lambda h: h.update({"a\x00": h.pop("norm.weight")}), "control character"),
        (lambda h: h.pop("norm.weight"), "hole|belong to no tensor"),
        (lambda h: h["norm.weight"].pop("shape"), "incompletely"),
    ],
)
def test_wrong_headers(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    path = save(tmp_path / "m", STATE) / "model.safetensors"
    rewrite_header(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert "model.safetensors" in str(caught.value)


def test_wrong_indexes(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", STATE, shards=2)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    first = next(iter(good))
    for place, message in (
        ({**good, first: "model-00009-of-00002.safetensors"}, "names the shard .* is missing"),
        ({**good, first: "../x.safetensors"}, "which is not beside it"),
        ({**good, first: ".."}, "which is not beside it"),
        ({**good, "new": good[first]}, "names 'new', which no shard holds"),
        ([], "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": place}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="is not an index"):
        open_checkpoint(folder)


def test_the_same_tensor_in_two_shards(tmp_path: Path) -> None:
    for i in (1, 2):
        state = {"w": torch.ones(2), f"v{i}": torch.ones(3)}
        save_file(state, tmp_path / f"model-0000{i}-of-00002.safetensors")
    model = open_checkpoint(tmp_path)
    model.close()
    assert sorted(model.tensors) == ["v1", "v2", "w"] and model.originals is None
    for other in (torch.zeros(2), torch.ones(3), torch.ones(2).half()):
        save_file({"w": other}, tmp_path / "model-00002-of-00002.safetensors")
        with pytest.raises(CheckpointError, match=r"'w' stands in model-00001-of-00002.* other w"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("tied", ["lm_head.weight", "model.embed_tokens.weight", "x.wte.weight"])
def test_an_index_as_transformers_reads_it(tied: str, tmp_path: Path) -> None:
    """A tied name that no shard holds, a tensor that it does not name, and an old index."""
    state = {**STATE, "shared.weight": torch.ones(2, 2), "more": torch.ones(2)}
    folder = save(tmp_path / "m", state, shards=2)
    index = folder / "model.safetensors.index.json"
    place = json.loads(index.read_text())["weight_map"]
    first = place.pop("more")
    index.write_text(json.dumps({"weight_map": {**place, tied: first}}))
    model = open_checkpoint(folder)
    model.close()
    assert set(model.tensors) == set(state)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    alone = open_checkpoint(folder)
    alone.close()
    assert set(alone.tensors) == {"w"}


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="neither a safetensors file nor a PyTorch"):
        open_checkpoint(tmp_path / "notes.txt")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, two / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="holds several models"):
        open_checkpoint(two)


def test_assets(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "m",
        STATE,
        files={
            "tokenizer.json": "{}", "1_Pooling/config.json": "{}", ".hidden": "", "notes.md": "",
            "onnx/model.onnx": "", "checkpoint-5/config.json": "{}", "training_args.bin": "",
            "modeling_own.py": "", "__pycache__/x.pyc": "",
        },
    )  # fmt: skip
    (folder / "loop").symlink_to(folder)
    checkpoint = open_checkpoint(folder)
    assert sorted(checkpoint.assets) == [
        "1_Pooling/config.json", "config.json", "modeling_own.py", "notes.md", "tokenizer.json",
    ]  # fmt: skip
    assert {s.split(" ")[0] for s in checkpoint.skipped} == {"onnx/model.onnx", "training_args.bin"}


def test_files_that_vanish_while_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "m", STATE) / "model.safetensors"
    checkpoint = open_checkpoint(tmp_path / "m")
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        for name, info in checkpoint.tensors.items():
            checkpoint.read(name, 0, info.numel)


def test_reading_back_what_safetensors_reads(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", STATE)
    loaded = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert {n: tuple(t.shape) for n, t in loaded.items()} == {
        n: i.shape for n, i in checkpoint.tensors.items()
    }
    assert np.array_equal(checkpoint.read("ids", 10, 20), np.arange(10, 20, dtype=np.uint64))


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(CheckpointError, match="is no path|there is no such") as caught:
        open_checkpoint(name)
    assert len(str(caught.value)) < 400 or name.startswith("a/")
