"""SPEC.md sections 1, 2 and 5: every kind of container, aliases, and what has to be read."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import taskstore
from taskstore.errors import FormatError
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.broken import MASKS, W, entry, refused
from tests.support.families import options
from tests.support.forge import Document

PRIVATE = "tasks/alpha/private.safetensors"
KINDS = ["base.safetensors", "multitask.safetensors", MASKS, PRIVATE]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with each kind of container, a tied pair, and a grown vocabulary."""
    root = tmp_path_factory.mktemp("kept")
    base = families.random_state(0)
    task = families.tuned(base, 1)
    for state in (base, task):
        state["tied.weight"] = state["layers.0.attn.weight"].clone()
    grown = families.random_state(1, shapes={"rows": (3, 16)})["rows"]
    task["embed_tokens.weight"] = torch.cat([task["embed_tokens.weight"], grown])
    families.save(root / "base", base)
    families.save(root / "alpha", task, files={"vocab.txt": "word\n" * 100})
    taskstore.pack(root / "base", {"alpha": root / "alpha"}, root / "store", options())
    return root / "store"


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "store"))


def spoil(store: Path, path: str, change: Callable[[Document], object]) -> None:
    """Change a container's header, nothing else of it."""
    raw = forge.container(forge.sections(store, path), change=change)
    forge.replace_file(store, path, raw)


@pytest.mark.parametrize("path", KINDS)
def test_a_section_missing(store: Path, path: str) -> None:
    parts = forge.sections(store, path)
    name = next(iter(parts))
    del parts[name]
    forge.replace_file(store, path, forge.container(parts))
    refused(store, f"lacks section '{name}'")


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("name", ["tied.weight", "stranger"])
def test_a_section_that_is_not_expected(store: Path, path: str, name: str) -> None:
    """Of a tensor that is an alias, and of no tensor at all."""
    parts = {**forge.sections(store, path), name: bytes(64)}
    forge.replace_file(store, path, forge.container(parts))
    refused(store, f"{path} holds '{name}', which does not belong there")


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(
    "metadata", [{}, {"format": "pt"}, {"format": "taskstore", "more": "1"}, ["taskstore"], None]
)
def test_other_metadata(store: Path, path: str, metadata: object) -> None:
    def change(header: Document) -> None:
        header["__metadata__"] = metadata

    spoil(store, path, change)
    refused(store, f"{path} is not a container of taskstore")


@pytest.mark.parametrize("path", KINDS)
def test_data_that_starts_elsewhere(store: Path, path: str) -> None:
    """Eight spaces more: good safetensors, and not aligned to 64."""
    raw = (store / path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    longer = raw[8 : 8 + length] + b" " * 8
    forge.replace_file(store, path, struct.pack("<Q", length + 8) + longer + raw[8 + length :])
    refused(store, f"{path}: section .* is not aligned to 64")


@pytest.mark.parametrize("path", KINDS)
def test_two_short_sections(store: Path, path: str) -> None:
    """32 bytes and 32 bytes: without holes, and not multiples of 64."""
    parts = forge.sections(store, path)
    first = next(iter(parts))
    parts[first] = bytes(32)
    forge.replace_file(store, path, forge.container({**parts, "zz": bytes(32)}))
    refused(store, f"{path}: section .* is not aligned to 64")


@pytest.mark.parametrize("path", KINDS)
def test_a_section_named_twice(store: Path, path: str) -> None:
    parts = forge.sections(store, path)
    raw = forge.container(parts)
    (length,) = struct.unpack("<Q", raw[:8])
    text = raw[8 : 8 + length].rstrip()
    name = json.dumps(next(iter(parts)))
    again = text[:-1] + b", " + name.encode() + b": " + json.dumps(
        json.loads(text)[json.loads(name)]
    ).encode() + b"}"  # fmt: skip
    forge.replace_file(store, path, forge.join(again, raw[8 + length :]))
    refused(store, f"{path} has a broken safetensors header: a name stands twice")


@pytest.mark.parametrize("path", [*KINDS, "assets"])
def test_a_file_that_is_missing_or_has_another_size(store: Path, path: str) -> None:
    """Rebuilding in memory reads no assets; unpacking does."""
    whole = path != "assets"
    if not whole:
        path = f"assets/{forge.load(store)['tasks']['alpha']['assets']['vocab.txt']}"
    raw = (store / path).read_bytes()
    (store / path).write_bytes(raw + b"\0")
    refused(store, f"{path} has {len(raw) + 1} bytes where the manifest records", whole=whole)
    (store / path).unlink()
    refused(store, f"{path} (is missing|cannot be opened)", whole=whole)
    forge.edit(store, lambda d: d["files"].pop(path))
    refused(store, "lacks section|has no file", whole=whole)


TIED = "tied.weight"
ALIASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "of an alias": (lambda d: d["tensors"][W].update(alias=TIED, multitask=None), "alias of some"),
    "of other bytes": (lambda d: d["tensors"][TIED].update(blake3="0" * 64), "alias of something"),
    "of another dtype": (lambda d: d["tensors"][TIED].update(dtype="F16"), "alias of something"),
    "of another shape": (lambda d: d["tensors"][TIED].update(shape=[1023]), "alias of something"),
    "of itself in a task": (lambda d: entry(d, TIED).update(of=TIED), "alias of something"),
    "of an alias in a task": (
        lambda d: d["tasks"]["alpha"]["tensors"].update(
            again={"kind": "alias", "of": TIED, "blake3": entry(d, TIED)["blake3"]}),
        "'again' is an alias of something"),
    "without `of`": (lambda d: entry(d, TIED).pop("of"), "alias of something else"),
    "that is masked": (
        lambda d: (entry(d, TIED).pop("of"), entry(d, TIED).update(kind="mask")),
        "has a mask and no multi-task part"),
    "with a multi-task part": (
        lambda d: d["tensors"][TIED].update(multitask="ulp"), "cannot have a multi-task part"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_aliases(store: Path, name: str) -> None:
    change, message = ALIASES[name]
    forge.edit(store, change)
    refused(store, message)


NUMBERS: dict[str, tuple[Callable[[Document], object], str]] = {
    "just over 2^46 bytes": (lambda d: d["tensors"][W].update(shape=[(1 << 45) + 1]), "too large"),
    "2^45 private": (
        lambda d: entry(d).update(kind="private", dtype="F32", shape=[1 << 45], ones=None),
        "is too large"),
    "grown over 2^46": (
        lambda d: entry(d, "embed_tokens.weight").update(shape=[1 << 42, 16]), "is too large"),
    "negative private": (
        lambda d: entry(d).update(kind="private", dtype="F32", shape=[-4, 4]), "Expected `int` >="),
    "negative file": (lambda d: d["files"][MASKS].update(bytes=-1), "Expected `int` >= 0"),
    "negative chunk": (lambda d: d.update(chunk=-64), "Expected `int` >= 0"),
    "chunk 65": (lambda d: d.update(chunk=65), "chunk 65 is not a multiple of 64"),
    "chunk 2^24 + 64": (lambda d: d.update(chunk=(1 << 24) + 64), "is not a multiple of 64"),
    "a size that is a text": (lambda d: d["files"][MASKS].update(bytes="9"), "Expected `int`"),
    "a size that is a fraction": (lambda d: d["files"][MASKS].update(bytes=0.5), "Expected `int`"),
    "as many rows": (lambda d: entry(d, "embed_tokens.weight").update(shape=[40, 16]), "grew from"),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(store: Path, name: str) -> None:
    change, message = NUMBERS[name]
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store)


def unchanged(store: Path, kept: Path) -> None:
    ours, theirs = (taskstore.open(path).state_dict("alpha") for path in (store, kept))
    assert ours.keys() == theirs.keys()
    assert all(families.same(ours[name], theirs[name]) for name in theirs)
    assert verify(taskstore.open(store), deep=True).ok


def test_files_that_are_not_listed_are_ignored(store: Path, kept: Path) -> None:
    (store / "base-00001-of-00002.safetensors").write_bytes(b"x")
    (store / "tasks" / "alpha" / "masks-00001-of-00001.safetensors").write_bytes(b"x")
    (store / "tasks" / "delta").mkdir()
    unchanged(store, kept)


@pytest.mark.parametrize("path", KINDS)
def test_headers_may_be_padded_more_and_ordered_otherwise(
    store: Path, kept: Path, path: str
) -> None:
    parts = forge.sections(store, path)
    parts = {name: parts[name] for name in reversed(list(parts))}
    raw = forge.container(parts)
    (length,) = struct.unpack("<Q", raw[:8])
    padded = struct.pack("<Q", length + 640) + raw[8 : 8 + length] + b" " * 640
    forge.replace_file(store, path, padded + raw[8 + length :])
    unchanged(store, kept)


@pytest.mark.parametrize("path", KINDS)
def test_shards_may_split_sections_anyhow(store: Path, kept: Path, path: str) -> None:
    parts = forge.sections(store, path)
    stem = path.removesuffix(".safetensors")
    (store / path).unlink()
    forge.edit(store, lambda d: d["files"].pop(path))
    names = list(parts)
    for i, some in enumerate((names[1::2], [], names[0::2]), 1):
        raw = forge.container({name: parts[name] for name in some})
        forge.replace_file(store, f"{stem}-0000{i}-of-00003.safetensors", raw)
    unchanged(store, kept)


def test_members_of_the_manifest_in_another_order(store: Path, kept: Path) -> None:
    document = forge.load(store)
    document.pop("checksum")
    forge.seal(store, {name: document[name] for name in reversed(list(document))})
    unchanged(store, kept)
