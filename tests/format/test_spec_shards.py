"""SPEC.md section 5, `shards`: one broken store per MUST."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

import taskstore
from taskstore.errors import FormatError
from tests.support import forge
from tests.support.broken import one_line, told
from tests.support.forge import Document
from tests.support.oddly import INDEX, ONE, TWO, W, packed, rich_family


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two odd shards per model; never written to."""
    root = tmp_path_factory.mktemp("kept")
    return packed(rich_family(root / "family"), root / "store", tiers="exact").path


def shards(d: Document) -> Document:
    found: Document = d["tasks"]["one"]["shards"]
    return found


def renamed(name: str) -> Callable[[Document], object]:
    return lambda d: shards(d).update({name: shards(d).pop(ONE)})


def indexed(name: str) -> Callable[[Document], object]:
    return lambda d: d["tasks"]["one"].update(index={name: d["tasks"]["one"]["index"][INDEX]})


def masked(d: Document) -> None:
    d["tensors"][W].update(multitask="ulp")
    entry = d["tasks"]["one"]["tensors"][W]
    for member in ("reason", "shape", "dtype"):
        entry.pop(member, None)
    entry.update(kind="mask", ones=1)


CASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "version 2": (lambda d: d.update(version=2), "has shards, in a store of version 2"),
    "none": (lambda d: shards(d).clear(), "has no shards"),
    "an index alone": (lambda d: d["tasks"]["one"].pop("shards"), "has no shards"),
    "two indexes": (
        lambda d: d["tasks"]["one"]["index"].update(
            {"x" + INDEX: d["tasks"]["one"]["index"][INDEX]}
        ),
        "not one index",
    ),
    "no index": (lambda d: d["tasks"]["one"]["index"].clear(), "not one index"),
    "of a task with masks": (masked, "has shards and is not exact"),
    "of a base that is not carried": (
        lambda d: d["base"].update(carried=False, source="/x"), "has shards and is not carried",
    ),
    "a path": (renamed("x/model.safetensors"), "weight file .* is not a plain file name"),
    "a way out": (renamed("../model.safetensors"), "is not a plain relative path"),
    "hidden": (renamed(".safetensors"), "is not a plain file name"),
    "a config": (renamed("config.json"), "is not a plain file name that ends in .safetensors"),
    "an index of another name": (indexed("config.json"), "is not a plain file name"),
    "an index elsewhere": (indexed("x/" + INDEX), "is not a plain file name"),
    "a header not listed": (lambda d: shards(d)[ONE].update(header="0" * 64), "not listed"),
    "an index not listed": (
        lambda d: d["tasks"]["one"]["index"].update({INDEX: "0" * 64}), "not listed",
    ),
    "a negative size": (lambda d: shards(d)[ONE].update(bytes=-1), "Expected `int` >= 0"),
    "an unknown member": (lambda d: shards(d)[ONE].update(x=1), "unknown field `x`"),
}  # fmt: skip


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "store"))


@pytest.mark.parametrize("name", CASES)
def test_manifests_that_break_a_must(name: str, store: Path) -> None:
    change, message = CASES[name]
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message) as caught:
        taskstore.open(store)
    one_line(caught.value)


def refused(store: Path, message: str) -> None:
    """By `unpack`, which writes nothing, and told by deep verification; the tensors are good."""
    with pytest.raises(FormatError, match=message) as caught:
        taskstore.open(store).unpack("one", store.parent / "out")
    one_line(caught.value)
    assert {path.name for path in store.parent.iterdir()} == {store.name}
    assert told(store)
    taskstore.open(store).state_dict("one")


def put_asset(store: Path, raw: bytes) -> str:
    digest = blake3(raw).hexdigest()
    forge.replace_file(store, f"assets/{digest}", raw)
    asset = {"bytes": len(raw), "stored": "raw"}
    forge.edit(store, lambda d: d["assets"].update({digest: asset}))
    return digest


def head_of(store: Path, file: str) -> bytes:
    digest = shards(forge.load(store))[file]["header"]
    raw = (store / "assets" / digest).read_bytes()
    stored = forge.load(store)["assets"][digest]["stored"]
    return zstandard.ZstdDecompressor().decompress(raw) if stored == "zstd" else raw


def put_head(store: Path, file: str, raw: bytes, size: int = 0) -> None:
    """Another header for a file of `one`, whose size is made to fit, plus `size`."""
    old = len(head_of(store, file))
    digest = put_asset(store, raw)

    def change(d: Document) -> None:
        entry = shards(d)[file]
        entry.update(header=digest, bytes=entry["bytes"] - old + len(raw) + size)

    forge.edit(store, change)


def edited(change: Callable[[Document], object]) -> Callable[[bytes], bytes]:
    def edit(head: bytes) -> bytes:
        document = json.loads(head[8:])
        change(document)
        raw = json.dumps(document).encode()
        return len(raw).to_bytes(8, "little") + raw

    return edit


def drop_last(d: Document) -> None:
    del d[max((n for n in d if n != "__metadata__"), key=lambda n: d[n]["data_offsets"][1])]


HEADS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no JSON": (lambda h: h[:-9] + b"?" * 9, "has a broken safetensors header"),
    "empty": (lambda _: b"", "header has another length"),
    "shorter than it says": (lambda h: h[:-1], "header has another length"),
    "longer than it says": (lambda h: h + b" ", "header has another length"),
    "no object": (lambda _: (2).to_bytes(8, "little") + b"[]", "no JSON object"),
    "of another dtype": (
        edited(lambda d: d["scale"].update(dtype="F16")), "holds 'scale', which the model has not",
    ),
    "of another shape": (
        edited(lambda d: d["scale"].update(shape=[1])), "holds 'scale', which the model has not",
    ),
    "of a stranger": (
        edited(lambda d: d.update(stranger=d.pop("scale"))), "holds 'stranger', which the model",
    ),
    "overlapping": (
        edited(lambda d: d.update(copy=dict(d["scale"]))), "has a hole or an overlap before",
    ),
    "of fewer tensors": (edited(drop_last), "bytes that belong to no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_headers_that_break_a_must(name: str, store: Path) -> None:
    change, message = HEADS[name]
    put_head(store, TWO, change(head_of(store, TWO)))
    refused(store, message)


def test_a_tensor_missing(store: Path) -> None:
    head = head_of(store, TWO)
    entry = max(json.loads(head[8:]).items(), key=lambda i: i[1]["data_offsets"][1])[1]
    begin, end = entry["data_offsets"]
    put_head(store, TWO, edited(drop_last)(head), begin - end)
    refused(store, "no weight file of task 'one' holds")


def test_a_tensor_twice(store: Path) -> None:
    document = forge.load(store)
    shards(document)["model-3.safetensors"] = shards(document)[ONE]
    forge.seal(store, document)
    refused(store, "'model-3.safetensors' of task 'one' repeats .* of 'model-00001-of")


@pytest.mark.parametrize("size", [1, -1, 1 << 50, "head"])
def test_another_size(size: int | str, store: Path) -> None:
    """However much is declared, nothing of it is allocated."""
    old = shards(forge.load(store))[ONE]["bytes"]
    new = len(head_of(store, ONE)) - 1 if size == "head" else old + int(size)
    forge.edit(store, lambda d: shards(d)[ONE].update(bytes=new))
    refused(store, "belong to no tensor|goes past the end|header is too large")


def test_a_header_too_large(store: Path) -> None:
    """Refused by the size that is declared, before the frame is opened."""
    digest = shards(forge.load(store))[ONE]["header"]

    def change(d: Document) -> None:
        d["assets"][digest]["bytes"] = 100_000_009
        shards(d)[ONE]["bytes"] = 1 << 40

    forge.edit(store, change)
    refused(store, "its header is too large")


def test_another_checksum(store: Path) -> None:
    forge.edit(store, lambda d: shards(d)[ONE].update(blake3="0" * 64))
    refused(store, f"'{ONE}' of task 'one' is damaged")


def test_a_damaged_header_or_index(store: Path) -> None:
    document = forge.load(store)
    for digest in (shards(document)[ONE]["header"], document["tasks"]["one"]["index"][INDEX]):
        path = store / "assets" / digest
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(FormatError, match="is damaged"):
            taskstore.open(store).unpack("one", store.parent / "out")
        path.write_bytes(raw)
    assert {path.name for path in store.parent.iterdir()} == {store.name}
