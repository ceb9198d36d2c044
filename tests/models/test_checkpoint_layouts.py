"""Reading models: what order never changes, what lies beside the weights, where a model is from."""

from __future__ import annotations

import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import taskstore
from taskstore.errors import CheckpointError
from taskstore.models import Checkpoint, open_checkpoint
from tests.support import families, forge
from tests.support.broken import one_line
from tests.support.families import State, options, random_state, save, tuned

T = TypeVar("T")
BASE = random_state(0)
TASK = tuned(BASE, 1)
CONTAINERS = ["base.safetensors", "multitask.safetensors", "tasks/t/masks.safetensors"]


def shuffled(state: dict[str, T], seed: int) -> dict[str, T]:
    names = list(state)
    random.Random(seed).shuffle(names)
    return {name: state[name] for name in names}


def by_hand(path: Path, state: State) -> None:
    """A safetensors file whose data lies in the order of `state`, which no library would choose."""
    header: forge.Document = {}
    data = b""
    for name, tensor in state.items():
        raw = families.bits(tensor).numpy().tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    named = shuffled(header, 7)
    path.write_bytes(forge.join(json.dumps(named).encode(), data))


def single(folder: Path, state: State) -> None:
    folder.mkdir()
    by_hand(folder / "model.safetensors", shuffled(state, 1))


def indexed(folder: Path, state: State) -> None:
    """Shards by the index alone: neither their numbers nor their order mean anything."""
    folder.mkdir()
    state = shuffled(state, 2)
    place = {name: f"part-{'cab'[i % 3]}.safetensors" for i, name in enumerate(state)}
    for file in set(place.values()):
        by_hand(folder / file, {n: t for n, t in state.items() if place[n] == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shuffled(place, 3)}))


def numbered(folder: Path, state: State) -> None:
    save(folder, shuffled(state, 4), shards=4)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "config.json").unlink()


def pickled(folder: Path, state: State) -> None:
    folder.mkdir()
    torch.save(shuffled(state, 5), folder / "pytorch_model.bin")


def legacy(folder: Path, state: State) -> None:
    """The old form, its matrices stored column by column."""
    folder.mkdir()
    turned = {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in state.items()}
    torch.save(turned, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    save(root / "b", BASE)
    save(root / "t", TASK)
    taskstore.pack(root / "b", {"t": root / "t"}, root / "store", options())
    return root / "store"


@pytest.mark.parametrize("how", [single, indexed, numbered, pickled, legacy])
def test_order_and_layout_never_change_the_store(
    plain: Path, tmp_path: Path, how: Callable[[Path, State], None]
) -> None:
    how(tmp_path / "b", BASE)
    how(tmp_path / "t", TASK)
    taskstore.pack(tmp_path / "b", {"t": tmp_path / "t"}, tmp_path / "store", options())
    for path in CONTAINERS:
        assert (tmp_path / "store" / path).read_bytes() == (plain / path).read_bytes()


def read_all(checkpoint: Checkpoint) -> dict[str, bytes]:
    found = {n: checkpoint.read(n, 0, i.numel).tobytes() for n, i in checkpoint.tensors.items()}
    checkpoint.close()
    return found


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("victim") / "m", BASE)


def test_every_cut_of_a_file(victim: Path) -> None:
    path = victim / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    try:
        for length in (*range(header + 2), *range(header + 2, len(raw), 61), len(raw) - 1):
            path.write_bytes(raw[:length])
            with pytest.raises(CheckpointError, match=r"model\.safetensors: .*(trunc|belong)"):
                open_checkpoint(victim)
    finally:
        path.write_bytes(raw)


@given(st.data())
def test_a_flipped_byte_of_a_header(victim: Path, data: st.DataObject) -> None:
    """Nothing but a CheckpointError, or a model."""
    path = victim / "model.safetensors"
    raw = path.read_bytes()
    spoiled = bytearray(raw)
    last = 7 + int.from_bytes(raw[:8], "little")
    spoiled[data.draw(st.integers(0, last))] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(spoiled)
        read_all(open_checkpoint(victim))
    except CheckpointError as error:
        one_line(error)
    finally:
        path.write_bytes(raw)


@given(st.data())
@pytest.mark.parametrize("zipped", [True, False])
def test_a_flipped_byte_of_a_pickle(
    tmp_path_factory: pytest.TempPathFactory, zipped: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("pickle") / "pytorch_model.bin"
    torch.save(BASE, path, _use_new_zipfile_serialization=zipped)
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    try:
        read_all(open_checkpoint(path))
    except CheckpointError as error:
        one_line(error)


def test_where_a_model_is_from(tmp_path: Path) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    for folder, source in (
        ("models--org--name", "org/name"),
        ("models--org--my--name", "org/my--name"),
        ("models--gpt2", "gpt2"),
    ):
        path = save(tmp_path / "hub" / folder / "snapshots" / revision, BASE)
        model = open_checkpoint(path)
        assert (model.source, model.revision) == (source, revision)
        model.close()
    for folder in (f"models--a--b/snapshots/{revision[:-1]}", f"other/snapshots/{revision}", "m"):
        path = save(tmp_path / folder, BASE)
        model = open_checkpoint(path)
        assert (model.source, model.revision) == (str(path), None)
        model.close()


def test_files_of_the_hub_cache_are_links(tmp_path: Path) -> None:
    """Links to files are read; links to folders are not followed."""
    home = tmp_path / "models--o--n"
    blobs = save(home / "blobs", BASE, files={"tokenizer.json": "{}", "deep/more.json": "{}"})
    snapshot = home / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        (snapshot / file).symlink_to(blobs / file)
    (snapshot / "deep").symlink_to(blobs / "deep")
    model = open_checkpoint(snapshot)
    assert sorted(model.assets) == ["config.json", "tokenizer.json"]
    assert read_all(model) == {n: families.bits(t).numpy().tobytes() for n, t in BASE.items()}


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", BASE, files={"a:b.txt": "", "sub/model.safetensors": ""})
    (folder / "gone.json").symlink_to("nowhere")
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "pipe")
    with (folder / "large.txt").open("wb") as file:
        file.truncate((256 << 20) + 1)
    model = open_checkpoint(folder)
    model.close()
    assert sorted(model.assets) == ["config.json"]
    assert sorted(model.skipped) == [
        "a:b.txt (its name is not portable)",
        "gone.json (not a regular file)",
        "large.txt (larger than 256 MB)",
        "loop.json (not a regular file)",
        "pipe (not a regular file)",
    ]
    assert sorted(model.beside) == ["sub/model.safetensors"]


def test_weights_that_are_not_the_model_are_named(tmp_path: Path) -> None:
    """A second copy of the weights in another format is left out, and said to be."""
    folder = save(tmp_path / "m", BASE)
    torch.save(BASE, folder / "pytorch_model.bin")
    save_file(BASE, folder / "consolidated.safetensors")
    model = open_checkpoint(folder)
    model.close()
    left = [name for name in ("consolidated.safetensors", "pytorch_model.bin")
            if not any(s.startswith(name) for s in model.skipped)]  # fmt: skip
    assert left == []


def test_sizes_on_disk(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", BASE, shards=2, files={"tokenizer.json": "{}"})
    model = open_checkpoint(folder)
    model.close()
    weights = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    assets = sum((folder / a).stat().st_size for a in ("config.json", "tokenizer.json"))
    assert model.original_bytes == weights + assets


VIEWS: dict[str, Callable[[], torch.Tensor]] = {
    "no data": lambda: torch.empty(3, device="meta"),
    "conjugate": lambda: torch.tensor([1 + 2j, 3]).conj(),
    "negative": lambda: torch.tensor([1 + 2j, 3]).conj().imag,
}


@pytest.mark.parametrize("name", VIEWS)
def test_tensors_that_are_not_their_bytes(tmp_path: Path, name: str) -> None:
    """`torch.save` keeps lazy views and tensors without data; both load, and are no weights yet."""
    value = VIEWS[name]()
    torch.save({"w": value, "v": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    try:
        model = open_checkpoint(tmp_path)
        raw = model.read("w", 0, 2)
    except CheckpointError as error:
        one_line(error, "'w'")
    else:
        expected = value.resolve_conj().resolve_neg()
        assert np.array_equal(raw, families.bits(expected).numpy().view(raw.dtype))


def test_a_pickle_that_aligns_nothing(tmp_path: Path) -> None:
    """A zip that another program wrote: its tensors begin at odd places, which no loop takes."""
    whole, path = tmp_path / "aligned", tmp_path / "pytorch_model.bin"
    torch.save(BASE, whole)
    with zipfile.ZipFile(whole) as aligned, zipfile.ZipFile(path, "w") as file:
        for k, part in enumerate(aligned.namelist()):
            shifted, extra = zipfile.ZipInfo(part), 1 + k % 2
            shifted.extra = struct.pack("<HH", 0x4242, extra) + bytes(extra)
            file.writestr(shifted, aligned.read(part))
    mapped = torch.load(path, mmap=True, weights_only=True)
    assert any(tensor.data_ptr() % tensor.element_size() for tensor in mapped.values())
    model = open_checkpoint(path)
    for name, value in BASE.items():
        raw = model.read(name, 0, value.numel())
        assert raw.flags.aligned and raw.tobytes() == families.bits(value).numpy().tobytes()
    model.close()
