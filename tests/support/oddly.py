"""Weight files such as no library writes them, and a family of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import taskstore
from tests.support import families
from tests.support.families import State, options

NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
W = "layers.0.attn.weight"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write(path: Path, state: State, order: Sequence[str], **style: object) -> None:
    """A safetensors file written by hand: data in `order`, and a header that is not the usual one.

    style: `metadata`, `padding` (spaces after the JSON), `reverse` (the header's names run the
    other way), `indent`.
    """
    entries, data = {}, b""
    for name in order:
        raw = bytes(families.bits(state[name]).numpy())
        span = [len(data), len(data) + len(raw)]
        shape = list(state[name].shape)
        entries[name] = {"dtype": NAMES[state[name].dtype], "shape": shape, "data_offsets": span}
        data += raw
    if style.get("reverse"):
        entries = dict(reversed(entries.items()))
    metadata = style.get("metadata")
    document = {**entries, **({} if metadata is None else {"__metadata__": metadata})}
    head = json.dumps(document, indent=style.get("indent")).encode()  # type: ignore[arg-type]
    head += b" " * int(style.get("padding", 0))  # type: ignore[call-overload]
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def odd(folder: Path, state: State, *, files: Mapping[str, str] | None = None, **_: object) -> Path:
    """Two shards and an index, nothing of them as a library would write it."""
    families.save(folder, {"x": torch.ones(1)}, files=files)
    (folder / "model.safetensors").unlink()
    names = sorted(state, reverse=True)
    parts = {ONE: names[1::2], TWO: names[::2]}
    style: dict[str, object] = {"metadata": {"z": "ü", "format": "pt", "run": "17"}}
    write(folder / ONE, state, parts[ONE], reverse=True, padding=3, **style)
    write(folder / TWO, state, parts[TWO], indent=1)
    place = {name: file for file, part in parts.items() for name in part}
    index = {"weight_map": place, "metadata": {"total_size": 1, "note": "ours"}}
    (folder / INDEX).write_text(json.dumps(index, indent=4))
    return folder


def rich_family(root: Path) -> families.Family:
    """Tied, grown, private, empty and integer tensors, all in odd shards."""
    base, tasks = families.rich_states()
    tasks["three"]["copy"] = tasks["three"]["layers.1.mlp.weight"].clone()
    tasks["one"][W] = tasks["one"][W].float()
    del tasks["one"]["norm.weight"]
    return families.Family(root, base, tasks, odd)


def packed(family: families.Family, target: Path, **changes: object) -> taskstore.Store:
    taskstore.pack(family.base_path, family.paths, target, options(**changes))
    return taskstore.open(target)
