"""SPEC.md section 5: members that do not belong, text that is none, assets of another kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

import taskstore
from taskstore.errors import FormatError, NewerVersion
from tests.support import broken, forge
from tests.support.broken import MASKS, W, entry, header, refused, replaced
from tests.support.forge import Document

SURROGATE = "\ud800"


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


MASKED: dict[str, Document] = {
    "of nothing": {"of": "nope"},
    "of itself": {"of": W},
    "of another": {"of": "norm.weight"},
}


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_with_the_member_of_an_alias(store: Path, name: str) -> None:
    """`of` belongs to an alias alone; a reader that follows it elsewhere skips the checksum."""
    forge.edit(store, lambda d: entry(d).update(MASKED[name]))
    refused(store, W)


BASE: dict[str, Document] = {
    "an unknown dtype": {"dtype": "F3"},
    "another dtype": {"dtype": "I16"},
    "a smaller shape": {"shape": [1]},
    "another shape": {"shape": [1023]},
    "a huge shape": {"shape": [1 << 45]},
    "of nothing": {"of": "nope"},
    "of another": {"of": "norm.weight"},
}


@pytest.mark.parametrize("name", BASE)
def test_a_base_tensor_with_members_of_others(store: Path, name: str) -> None:
    """Kind `base` is bit for bit the base's: its dtype and shape are not the task's to give."""
    replaced(W, kind="base", **BASE[name])(store)
    refused(store, W)


def test_a_base_tensor(store: Path) -> None:
    """The same edit without the wrong member is a good store."""
    replaced(W, kind="base")(store)
    ours = taskstore.open(store)
    assert ours.tensor("alpha", W).equal(ours.tensor(None, W))


def test_a_private_tensor_with_the_member_of_an_alias(store: Path) -> None:
    replaced(W, kind="private", dtype="BF16", shape=[33, 31], of="norm.weight")(store)
    section = forge.section([0] * 8, b"")
    forge.replace_file(store, "tasks/alpha/private.safetensors", forge.container({W: section}))
    forge.edit(store, lambda d: entry(d).update(blake3=blake3(bytes(2046)).hexdigest()))
    refused(store, W)


def test_a_huge_tensor_in_a_small_section(store: Path) -> None:
    """The section is checked before anything of the tensor's size is allocated."""
    replaced(W, kind="private", dtype="F32", shape=[1 << 28])(store)
    raw = forge.container({W: bytes(64)})
    forge.replace_file(store, "tasks/alpha/private.safetensors", raw)
    with pytest.raises(FormatError, match=f"section '{W}' is shorter than its table"):
        taskstore.open(store).state_dict("alpha")
    assert broken.told(store)


def test_a_claim_out_of_proportion(store: Path) -> None:
    """Zeros take nothing, so a small file can be right and rebuild to any size."""
    replaced(W, kind="private", dtype="F32", shape=[1 << 33])(store)
    raw = forge.container({W: forge.section([0] * 1000, b"")})
    forge.replace_file(store, "tasks/alpha/private.safetensors", raw)
    with pytest.raises(FormatError, match="claims 32 GiB of tensors in files of"):
        taskstore.open(store)


def test_no_elements_and_an_impossible_shape(store: Path) -> None:
    replaced(W, kind="private", dtype="F32", shape=[0, 1 << 52])(store)
    with pytest.raises(FormatError, match="is too large"):
        taskstore.open(store)


SURROGATES: dict[str, Callable[[Document], object]] = {
    "member": lambda d: d.update({SURROGATE: 1}),
    "member of a tensor": lambda d: entry(d).update({SURROGATE: 1}),
    "kind": lambda d: entry(d).update(kind=SURROGATE),
    "stored": lambda d: next(iter(d["assets"].values())).update(stored=SURROGATE),
    "dtype": lambda d: d["tensors"][W].update(dtype=SURROGATE),
    "codec": lambda d: d["tensors"][W].update(codec=SURROGATE),
    "alias": lambda d: d["tensors"][W].update(alias=SURROGATE, multitask=None),
    "of": lambda d: entry(d).update(kind="alias", of=SURROGATE),
    "tensor": lambda d: d["tensors"].update({SURROGATE: d["tensors"][W]}),
    "task": lambda d: d["tasks"].update({SURROGATE: d["tasks"]["alpha"]}),
    "file": lambda d: d["files"].update({SURROGATE: d["files"]["README.md"]}),
    "asset": lambda d: d["base"]["assets"].update({SURROGATE: next(iter(d["assets"]))}),
    "hash": lambda d: d["base"]["assets"].update({"x": SURROGATE}),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_half_a_character(store: Path, name: str) -> None:
    r"""JSON can spell "\ud800", which is no text and cannot be UTF-8."""
    forge.edit(store, SURROGATES[name])
    with pytest.raises(FormatError) as caught:
        taskstore.open(store)
    broken.one_line(caught.value)


def seal_ending(store: Path, last: str) -> None:
    """A manifest whose last member is spelled `last`, with the right digits."""
    document = forge.load(store)
    for name in ("checksum", 'x"checksum'):
        document.pop(name, None)
    tail = "0" * 64 + '"\n}\n'
    text = json.dumps(document, indent=1)[: -len("\n}")] + f',\n {last}: "{tail}'
    digits = blake3(text.encode()).hexdigest()
    (store / "taskstore.json").write_text(text[: -len(tail)] + digits + tail[64:])


def test_a_member_that_only_ends_like_the_checksum(store: Path) -> None:
    seal_ending(store, '"checksum"')
    taskstore.open(store)
    seal_ending(store, '"x\\"checksum"')
    with pytest.raises(FormatError, match=r"taskstore\.json"):
        taskstore.open(store)
    seal_ending(store, '"checksum": 1, "x\\"checksum"')
    with pytest.raises(FormatError, match=r"taskstore\.json"):
        taskstore.open(store)


@pytest.mark.parametrize("path", ["taskstore.json", "base.safetensors", MASKS])
def test_a_folder_where_a_file_belongs(store: Path, path: str) -> None:
    (store / path).unlink()
    (store / path).mkdir()
    size = (store / path).stat().st_size
    if path != "taskstore.json":
        forge.edit(store, lambda d: d["files"][path].update(bytes=size))
    refused(store, path)


def test_a_newer_version_is_told_before_anything_else(store: Path) -> None:
    text = (store / "taskstore.json").read_text()
    (store / "taskstore.json").write_text(text.replace('"version": 4,', '"version": 7,'))
    with pytest.raises(NewerVersion, match="format version 7"):
        taskstore.open(store)
    (store / "taskstore.json").write_text('{"format": "taskstore", "version": 9, "new": []}')
    with pytest.raises(NewerVersion, match="format version 9"):
        taskstore.open(store)


@pytest.mark.parametrize("version", [None, "1", 1.0, -1, [1]])
def test_what_is_no_version(store: Path, version: object) -> None:
    forge.edit(store, lambda d: d.update(version=version))
    with pytest.raises(FormatError, match="no valid version"):
        taskstore.open(store)


WEIGHTS = ["model.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize("path", WEIGHTS)
def test_an_asset_in_the_place_of_the_weights(store: Path, path: str) -> None:
    """Checked weights must not be overwritten by a file that nobody checked as weights."""
    forge.edit(store, lambda d: d["tasks"]["alpha"]["assets"].update(
        {path: next(iter(d["assets"]))}))  # fmt: skip
    refused(store, path, whole=False)


def asset_of_alpha(store: Path) -> str:
    return str(forge.load(store)["tasks"]["alpha"]["assets"]["own.txt"])


@pytest.mark.parametrize("size", [1 << 40, 1 << 50])
def test_an_asset_that_announces_more_than_memory(store: Path, size: int) -> None:
    digest = asset_of_alpha(store)
    forge.edit(store, lambda d: d["assets"][digest].update(bytes=size, stored="zstd"))
    frame = header(size) + broken.block(broken.REPEATED, 100, b"x")
    forge.replace_file(store, f"assets/{digest}", frame)
    refused(store, "<= 268435456 - at `.*assets", whole=False)


def test_an_asset_of_other_bytes(store: Path) -> None:
    """The file's entry is right, the content is not what the hash names."""
    digest = asset_of_alpha(store)
    forge.replace_file(store, f"assets/{digest}", b"other")
    refused(store, f"assets/{digest} is damaged", whole=False)


def test_an_asset_stored_some_other_way(store: Path) -> None:
    forge.edit(store, lambda d: d["assets"][asset_of_alpha(store)].update(stored="gzip"))
    with pytest.raises(FormatError, match="Invalid enum value 'gzip'"):
        taskstore.open(store)
