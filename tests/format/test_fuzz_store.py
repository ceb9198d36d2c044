"""Stores that are sealed again after a change: every checksum right, so only the checks remain.

Whatever was changed, reading ends in a TaskstoreError or in exactly the weights that were packed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

import taskstore
from taskstore.errors import TaskstoreError
from taskstore.store.verify import verify
from tests.support import families, forge
from tests.support.broken import one_line
from tests.support.families import options, random_state, save, tuned

State = families.State


@pytest.fixture(scope="module", params=["mask", "exact"])
def rich(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every kind of tensor: masked, cast, grown, tied, private, the base's own."""
    root = tmp_path_factory.mktemp("rich")
    base = random_state(0)
    base["tied.weight"] = base["embed_tokens.weight"].clone()
    base["lm_head.weight"] = random_state(3)["embed_tokens.weight"]
    base["ids"] = torch.arange(300)
    one, two = tuned(base, 1), tuned(base, 2)
    for task in (one, two):
        task["tied.weight"] = task["embed_tokens.weight"].clone()
    two["norm.weight"] = two["norm.weight"].half()
    two["lm_head.weight"] = torch.cat([two["lm_head.weight"], torch.ones(2, 16).bfloat16()])
    two["head"] = torch.ones(3, 16)
    two["copy"] = two["embed_tokens.weight"].clone()
    files = {"vocab.txt": "word\n" * 200}
    save(root / "base", base, files=files)
    paths = {n: save(root / n, s, files=files) for n, s in {"one": one, "two": two}.items()}
    taskstore.pack(root / "base", paths, root / "packed", options(tiers=request.param))
    kinds = {e["kind"] for t in forge.load(root / "packed")["tasks"].values()
             for e in t["tensors"].values()}  # fmt: skip
    assert kinds == {request.param, "base", "private", "alias"}
    (root / "work").mkdir()
    shutil.copytree(root / "packed", root / "work" / "store")
    return root


@pytest.fixture(scope="module")
def good(rich: Path) -> dict[str | None, State]:
    store = taskstore.open(rich / "packed")
    return {task: store.state_dict(task) for task in (None, *store.tasks)}


def read_everything(path: Path) -> dict[str | None, State]:
    """Every way of reading; only TaskstoreErrors stop one, and verification never raises more."""
    found: dict[str | None, State] = {}
    try:
        store = taskstore.open(path)
        store.summary()
        verify(store, deep=True, jobs=1)
        for task in (None, *store.tasks):
            found[task] = store.state_dict(task, jobs=1)
    except TaskstoreError as error:
        one_line(error)
    return found


def same(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(
        families.same(ours[name], theirs[name]) for name in ours
    )


@given(st.data())
def test_one_byte_of_a_container(
    rich: Path, good: dict[str | None, State], data: st.DataObject
) -> None:
    store = rich / "work" / "store"
    paths = sorted(p.relative_to(store).as_posix() for p in store.rglob("*.safetensors"))
    path = data.draw(st.sampled_from(paths))
    raw = bytearray((rich / "packed" / path).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        forge.replace_file(store, path, bytes(raw))
        for task, state in read_everything(store).items():
            assert same(state, good[task])
    finally:
        for name in (path, "taskstore.json"):
            shutil.copyfile(rich / "packed" / name, store / name)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


MEMBERS = ["dtype", "shape", "of", "ones", "reason", "alias", "kind", "codec", "new", "\ud800"]
VALUES = st.sampled_from([
    None, True, 0, 1, -1, 64, 1 << 40, 1 << 63, 1.5, "", "x", "\x1b", "BF16", "F32", "I64", "F3",
    "planes", "ulp", "rounded", "ids", "norm.weight", "embed_tokens.weight", "mask", "base",
    "private", "alias", "exact", "steps", "zstd", [], {}, [0], [16], [40, 16], [43, 16], [640],
    [1 << 30] * 2, {"x": 1}, "0" * 64, "../x",
])  # fmt: skip


def seal(store: Path, document: forge.Document) -> None:
    """`forge.seal`, also for what cannot be written as it stands."""
    document.pop("checksum", None)
    document["checksum"] = "0" * 64
    tail = "0" * 64 + '"\n}\n'
    text = json.dumps(document, indent=1) + "\n"
    digits = blake3(text.encode()).hexdigest()
    (store / "taskstore.json").write_text(text[: -len(tail)] + digits + tail[64:])


@given(st.data())
def test_one_member_of_the_manifest(rich: Path, data: st.DataObject) -> None:
    store = rich / "work" / "store"
    document = forge.load(rich / "packed")
    document.pop("checksum")
    everything = list(places(document))
    holder, key = everything[data.draw(st.integers(0, len(everything) - 1))]
    value = data.draw(VALUES)
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder[data.draw(st.sampled_from(MEMBERS))] = value
    else:
        holder[key] = value
    try:
        seal(store, document)
        read_everything(store)
    finally:
        shutil.copyfile(rich / "packed" / "taskstore.json", store / "taskstore.json")


def test_the_store_was_good(rich: Path, good: dict[str | None, State]) -> None:
    found = read_everything(rich / "work" / "store")
    assert found.keys() == good.keys()
    assert all(same(found[task], good[task]) for task in good)
