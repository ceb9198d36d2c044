"""The models that a recipe names: paths, ids of the hub, or mergekit's own mappings of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from taskstore.format import names
from taskstore.locations.publish import recover
from taskstore.merging.mergekit.fields import Node


def model_path(node: Node, depth: int = 2) -> str:
    """A model's path or hub id, which mergekit may write in full as {model: {path: ...}}."""
    if isinstance(node.value, dict) and depth:
        fields = node.members(("model", "lora", "path", "revision", "override_architecture"))
        for key in ("lora", "revision", "override_architecture"):
            if key in fields:
                fields[key].fail("is not supported; name a folder")
        inner = fields.get("model", fields.get("path"))
        if inner is None:
            node.fail("names no model")
        return model_path(inner, depth - 1)
    text = node.text()
    if names.has_control(text):
        node.fail(f"is {text[:80]!a}, which is no path")
    places = (Path(os.path.expanduser(text)), node.file.parent / text)  # mergekit's is the first
    for place in places:
        with suppress(OSError):  # a name that no file can have
            recover(place)
        if os.path.exists(place):
            return str(place)
    if "+" in text:
        node.fail(
            f"is {text!r}, an adapter on a model; name the adapter's folder alone, it is then one "
            "of base_model"
        )
    return text


def same_model(model: str, other: str) -> bool:
    return model == other or os.path.realpath(model) == os.path.realpath(other)
