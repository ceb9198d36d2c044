"""SPEC.md sections 1 and 5: one broken store per MUST about the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.errors import ChecksumMismatch, FormatError, NewerVersion, UnknownCodec
from taskstore.format.manifest import Score
from taskstore.packing.revise import record
from tests.support import forge
from tests.support.forge import Document

W = "layers.0.attn.weight"


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


def test_sealing_by_hand_is_what_a_reader_wants(store: Path) -> None:
    forge.edit(store, lambda _: None)
    taskstore.open(store).state_dict("alpha")


def tensor(d: Document, name: str = W) -> Document:
    found: Document = d["tensors"][name]
    return found


def forget(d: Document) -> list[Document]:
    """Take out what stands in version 4 of every task."""
    return [task.pop("fidelity") for task in d["tasks"].values()]


def entry(d: Document, name: str = W) -> Document:
    found: Document = d["tasks"]["alpha"]["tensors"][name]
    return found


def rename_task(name: str) -> Callable[[Document], object]:
    return lambda d: d["tasks"].update({name: d["tasks"].pop("alpha")})


def alias(of: object, name: str = "norm.weight") -> Callable[[Document], object]:
    return lambda d: tensor(d, name).update(alias=of, multitask=None)


def private(**members: Any) -> Callable[[Document], object]:
    def change(d: Document) -> None:
        digest = entry(d)["blake3"]
        entry(d).clear()
        entry(d).update(kind="private", blake3=digest, **members)

    return change


CASES: dict[str, tuple[Callable[[Document], object], str]] = {
    "another format": (lambda d: d.update(format="zip"), "not a taskstore manifest"),
    "version 0": (lambda d: d.update(version=0), "no valid version"),
    "version true": (lambda d: d.update(version=True), "no valid version"),
    "no version": (lambda d: d.pop("version"), "no valid version"),
    "unknown member": (lambda d: d.update(extra=1), "unknown field `extra`"),
    "unknown member of a tensor": (lambda d: tensor(d).update(x=1), "unknown field `x`"),
    "missing member": (lambda d: d.pop("chunk"), "missing required field `chunk`"),
    "half a character as a size": (
        lambda d: d["tensors"][W].update(shape=["\ud800", 64]),
        "half a character where no text belongs",
    ),
    "vectors in version 3": (lambda d: [d.update(version=3), forget(d)], "vectors, and version 3"),
    "vectors of no task": (lambda d: d["vectors"]["norms"].update(x=1.0), "not those of its tasks"),
    "vectors of no weights": (lambda d: d["vectors"].update(share=0), "not those of its tasks"),
    "a vector too few": (lambda d: d["vectors"]["norms"].popitem(), "not those of its tasks"),
    "a cosine too many": (lambda d: d["vectors"]["cosines"][0].append(0.5), "cosines .* are none"),
    "a cosine of 2": (lambda d: d["vectors"]["cosines"][1].insert(0, 2), "cosines .* are none"),
    "a length below 0": (lambda d: d["vectors"]["norms"].update(beta=-1), "lengths .* are none"),
    "wrong type": (lambda d: d.update(chunk="64"), "Expected `int`"),
    "chunk 63": (lambda d: d.update(chunk=63), "not a multiple of 64"),
    "chunk 0": (lambda d: d.update(chunk=0), "not a multiple of 64"),
    "chunk 2^25": (lambda d: d.update(chunk=1 << 25), "not a multiple of 64"),
    "no tasks": (lambda d: d.update(tasks={}), "has no task"),
    "no source": (lambda d: d["base"].update(carried=False), "does not say where"),
    "negative size": (lambda d: tensor(d).update(shape=[-1]), "Expected `int` >= 0"),
    "huge size": (lambda d: tensor(d).update(shape=[1 << 40, 1 << 40]), "is too large"),
    "many dimensions": (lambda d: tensor(d).update(shape=[1] * 65), "is too large"),
    "unknown dtype": (lambda d: tensor(d).update(dtype="F3"), "unknown dtype 'F3'"),
    "wrong codec": (lambda d: tensor(d).update(codec="planes"), "does not fit BF16"),
    "deltas in an older store": (
        lambda d: tensor(d).update(multitask="deltas"), "coded by deltas, in an older store",
    ),
    "rounded bf16": (lambda d: tensor(d).update(multitask="rounded"), "cannot have a multi-task"),
    "mask without multitask": (lambda d: tensor(d).update(multitask=None), "no multi-task part"),
    "alias of nothing": (alias("none"), "alias of something else"),
    "alias of itself": (alias("norm.weight"), "alias of something else"),
    "alias of another shape": (alias(W), "alias of something else"),
    "masked alias": (lambda d: tensor(d).update(alias="scale"), "cannot have a multi-task"),
    "digest": (lambda d: tensor(d).update(blake3="XY"), "matching regex"),
    "unknown kind": (lambda d: entry(d).update(kind="magic"), "Invalid enum value 'magic'"),
    "private without dtype": (private(shape=[1]), "has no dtype or no shape"),
    "private without shape": (private(dtype="F32"), "has no dtype or no shape"),
    "private of unknown dtype": (private(dtype="F3", shape=[1]), "unknown dtype 'F3'"),
    "task alias of nothing": (
        lambda d: entry(d).update(kind="alias", of="x", ones=None), "alias of",
    ),
    "mask of a stranger": (
        lambda d: d["tasks"]["alpha"]["tensors"].update(new=entry(d)), "'new' is not in the base",
    ),
    "cast to an integer": (lambda d: entry(d).update(dtype="I16"), "cannot be cast to 'I16'"),
    "grown elsewhere": (lambda d: entry(d).update(shape=[99, 32]), "grew from"),
    "not grown": (lambda d: entry(d).update(shape=[33, 31]), "grew from"),
    "grown in dimensions": (lambda d: entry(d).update(shape=[99, 31, 1]), "grew from"),
    "grown scalar": (lambda d: entry(d, "scale").update(shape=[2]), "grew from"),
    "lists itself": (
        lambda d: d["files"].update({"taskstore.json": d["files"]["README.md"]}), "lists itself",
    ),
    "hash not listed": (
        lambda d: d["base"]["assets"].update({"config.json": "0" * 64}), "hash that is not listed",
    ),
    "asset without file": (
        lambda d: d["files"].pop(next(p for p in d["files"] if p.startswith("assets/"))),
        "has no file",
    ),
    "two tasks of one name": (
        lambda d: d["tasks"].update(ALPHA=d["tasks"]["alpha"]), "'ALPHA' is given twice",
    ),
    "tensor name": (lambda d: d["tensors"].update({"a\x01": tensor(d)}), "control character"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(store: Path, name: str) -> None:
    change, message = CASES[name]
    forge.edit(store, change)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store)


@pytest.mark.parametrize("codec", ["lzma", "", "bits"])
def test_unknown_codecs(store: Path, codec: str) -> None:
    forge.edit(store, lambda d: tensor(d).update(multitask=codec))
    with pytest.raises(UnknownCodec, match="this build knows deltas, rounded, strides, ulp"):
        taskstore.open(store)
    forge.edit(store, lambda d: tensor(d).update(multitask="ulp", codec=codec))
    with pytest.raises(UnknownCodec, match="this build knows planes, rotated"):
        taskstore.open(store)


def test_a_newer_version_is_told_by_its_number(store: Path) -> None:
    forge.edit(store, lambda d: d.update(version=7, brand_new={"x": 1}))
    with pytest.raises(NewerVersion, match=r"version 7, .* reads up to 6; upgrade"):
        taskstore.open(store)


PATHS = [
    "../x",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "a/../b",
    "",
    "a\\b",
    "c:x",
    "a\nb",
    "a/",
    "\u202ex",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_leave_their_folder(store: Path, packed: Path, path: str) -> None:
    forge.edit(store, lambda d: d["files"].update({path: d["files"]["README.md"]}))
    with pytest.raises(FormatError, match="not a plain relative path|holds a control character"):
        taskstore.open(store)
    shutil.copy(packed / "taskstore.json", store)
    forge.edit(store, lambda d: d["tasks"]["alpha"]["assets"].update(
        {path: next(iter(d["assets"]))}))  # fmt: skip
    with pytest.raises(FormatError, match="not a plain relative path|holds a control character"):
        taskstore.open(store)


@pytest.mark.parametrize("name", ["../a", "a\\b", "", ".a", "-a", " a", "a.", "a\tb", "x" * 129])
def test_names_of_tasks(store: Path, name: str) -> None:
    forge.edit(store, rename_task(name))
    with pytest.raises(FormatError, match="task name|holds a control character"):
        taskstore.open(store)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a taskstore manifest"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"format": "taskstore", "version": 1, "version": 1}', "stands twice"),
        (b'{"format": "taskstore", "version": NaN}', "NaN is not JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"format": "taskstore", "version": 1}', "does not end with its checksum"),
        (b'{"format": "taskstore", "version": 1' + b"0" * 5000 + b"}", "not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_no_manifest(store: Path, raw: bytes, message: str) -> None:
    (store / "taskstore.json").write_bytes(raw)
    with pytest.raises(FormatError, match=message):
        taskstore.open(store)


def test_the_checksum(store: Path) -> None:
    document = forge.load(store)
    (store / "taskstore.json").write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(ChecksumMismatch, match=r"taskstore\.json is damaged"):
        taskstore.open(store)
    document = {"checksum": document.pop("checksum"), **document}
    (store / "taskstore.json").write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(FormatError, match="does not end with its checksum"):
        taskstore.open(store)


def test_a_manifest_too_large_to_be_one(store: Path) -> None:
    with (store / "taskstore.json").open("r+b") as file:
        file.truncate(300 << 20)
    with pytest.raises(FormatError, match="larger than 256 MB"):
        taskstore.open(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(bytes=a["bytes"] + 1), "declares|damaged"),
        (lambda a: a.update(stored="raw"), "damaged"),
    ],
)
def test_an_asset_that_is_another(
    store: Path, tmp_path: Path, change: Callable[[Document], object], message: str
) -> None:
    text = json.dumps({"vocabulary": ["a"] * 500})
    source = tmp_path / "in"
    base = taskstore.open(store)
    base.unpack(None, source)
    base.unpack("alpha", tmp_path / "t")
    (tmp_path / "t" / "vocab.json").write_text(text)
    taskstore.pack(source, {"t": tmp_path / "t"}, tmp_path / "s2")
    digest = taskstore.open(tmp_path / "s2").manifest.tasks["t"].assets["vocab.json"]
    forge.edit(tmp_path / "s2", lambda d: change(d["assets"][digest]))
    with pytest.raises(FormatError, match=message):
        taskstore.open(tmp_path / "s2").unpack("t", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("n", [0, -1, 1.5, "7", 1 << 60])
def test_a_count_of_examples_is_a_positive_integer(store: Path, n: object) -> None:
    score = {"rebuilt": 0.5, "n": n}
    forge.edit(store, lambda d: d["tasks"]["alpha"].update(scores={"x": score}))
    with pytest.raises(FormatError):
        taskstore.open(store)


def test_a_count_of_examples_needs_version_4(store: Path) -> None:
    record(taskstore.open(store), "x", {"alpha": Score(rebuilt=0.5, n=7)})
    forge.make_older(store, 3)
    forge.edit(store, lambda d: d.pop("history"))
    with pytest.raises(FormatError, match="scores with n, in an older store"):
        taskstore.open(store)
