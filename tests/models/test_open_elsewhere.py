"""Models that are not on this machine are opened as those that are: same tensors, same files."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from taskstore.errors import CheckpointError, RemoteError
from taskstore.locations.remote.elsewhere import cached_whole
from taskstore.models import Checkpoint, open_checkpoint
from tests.support import adapters, families
from tests.support.hub.faults import Hub
from tests.support.hub.repositories import blob_of


@pytest.fixture
def base(hub: Hub, small: families.Family) -> str:
    hub.repositories.upload("org/base", small.base_path)
    return "org/base"


def weights_on_disk(hub_cache: Path) -> list[Path]:
    return [path for path in hub_cache.rglob("*.safetensors") if path.stat().st_size > 200]


def cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert dict(one.tensors) == dict(other.tensors)
    for name, info in one.tensors.items():
        assert np.array_equal(one.read(name, 0, info.numel), other.read(name, 0, info.numel))
    assert one.original_bytes == other.original_bytes
    assert (one.name, one.skipped, one.left_out) == (other.name, other.skipped, other.left_out)
    for mine, theirs in ((one.assets, other.assets), (one.beside, other.beside)):
        assert {n: p.read_bytes() for n, p in mine.items()} == {
            n: p.read_bytes() for n, p in theirs.items()
        }


def test_a_model_of_the_hub(hub: Hub, base: str, small: families.Family) -> None:
    with (
        closing(open_checkpoint(base)) as found,
        closing(open_checkpoint(small.base_path, "base")) as local,
    ):
        assert_same(found, local)
        assert (found.source, len(found.revision or "")) == ("org/base", 40)
        assert found.originals and local.originals
        ours, theirs = found.originals.files, local.originals.files
        assert [f.digest() for f in ours] == [f.digest() for f in theirs]
        scratch = found.path
        assert scratch.exists()
    assert not scratch.exists()
    assert weights_on_disk(cache()) == []


def test_what_lies_beside_the_weights_is_brought(hub: Hub, tmp_path: Path, base: str) -> None:
    folder = tmp_path / "base"
    families.save(folder, families.random_state(3))
    (folder / "README.md").write_text("a card")
    (folder / "code").mkdir()
    (folder / "code/model.py").write_text("x = 1\n")
    families.save(folder / "sub", families.random_state(4))
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "pytorch_model.bin").write_bytes(b"a copy of the weights")
    hub.repositories.upload("org/more", folder)
    with (
        closing(open_checkpoint("hf://org/more", "m")) as found,
        closing(open_checkpoint(folder, "m")) as local,
    ):
        assert_same(found, local)
    assert not any("optimizer.pt" in key or key.endswith(".bin") for key in hub.sent)


def test_shards_and_their_index(hub: Hub, tmp_path: Path) -> None:
    folder = families.save(tmp_path / "m", families.random_state(3), shards=2)
    hub.repositories.upload("org/m", folder)
    with closing(open_checkpoint("org/m")) as found, closing(open_checkpoint(folder)) as local:
        assert_same(found, local)


def test_an_adapter(hub: Hub, tmp_path: Path) -> None:
    hub.repositories.upload("org/adapted", adapters.base(tmp_path, torch.float32))
    made = adapters.save(tmp_path / "lora", "lora")
    hub.repositories.upload("org/lora", made)
    with (
        closing(open_checkpoint("org/adapted")) as base,
        closing(open_checkpoint("org/lora", base=base)) as found,
        closing(open_checkpoint(made, "lora", base=base)) as local,
    ):
        assert_same(found, local)


def test_whole_into_the_cache(hub: Hub, base: str, small: families.Family) -> None:
    with cached_whole(), closing(open_checkpoint(base)) as found:
        assert found.path.is_relative_to(cache())
    hub.log.clear()
    with (
        closing(open_checkpoint(base)) as again,
        closing(open_checkpoint(small.base_path, "base")) as local,
    ):
        assert_same(again, local)
    assert not any("/resolve/" in line for line in hub.log)


def test_a_full_cache_is_enough_without_a_network(
    hub: Hub, base: str, small: families.Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cached_whole(), closing(open_checkpoint(base)) as found:
        commit = found.revision
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.log.clear()
    for name in (base, f"{base}@{commit}"):
        with (
            closing(open_checkpoint(name)) as found,
            closing(open_checkpoint(small.base_path, "base")) as local,
        ):
            assert_same(found, local)
    assert hub.log == []
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set"):
        open_checkpoint("org/other")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"config.json": b"{}"}, "^hf://org/bad: holds no weights"),
        ({"model.gguf": b"GGUF"}, "^hf://org/bad: holds no weights but GGUF"),
        ({"pytorch_model.bin": b"x" * 300}, "is a pickle, .* no safetensors .*cache=True"),
        ({"model.safetensors": b"\xff" * 300}, "hf://org/bad/model.safetensors: .*over 100 MB"),
        ({"model.safetensors": b"\x10" + bytes(7) + b"{" * 300}, "broken safetensors header"),
        ({"model.safetensors": b"1234"}, "shorter than a safetensors header"),
        ({"taskstore.json": b"{}"}, "is a store, not a model"),
    ],
)
def test_what_is_no_model(hub: Hub, files: dict[str, bytes], problem: str) -> None:
    hub.repositories.create("org/bad", None)
    blobs = {name: blob_of(name, data) for name, data in files.items()}
    hub.repositories.commit("org/bad", "main", blobs, "files")
    left = sorted(os.listdir())
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint("org/bad")
    assert sorted(os.listdir()) == left


def test_no_such_model(hub: Hub) -> None:
    with pytest.raises(RemoteError, match=r"hf://org/nobody: there is no such .*\./org/nobody"):
        open_checkpoint("org/nobody")
