"""Find the checkpoints of a training run: a folder with `checkpoint-STEP` folders in it.

Hugging Face's Trainer writes such folders. A folder that has weights of its own is a model,
whatever lies beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.format.names import MANIFEST
from taskstore.locations.files import resolve
from taskstore.models.readers import lora, weights_in

_STEP = re.compile(r"checkpoint-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True)
class Run:
    """`checkpoints` are name -> folder by their steps; `skipped` are those that have no step."""

    checkpoints: Mapping[str, Path]
    skipped: tuple[str, ...]


def expand(path: str | os.PathLike[str]) -> Run | None:
    """Open a run, or return None. Raises CheckpointError where two folders have one step."""
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir() or (folder / MANIFEST).is_file() or _has_weights(folder):
        return None
    found: dict[int, Path] = {}
    skipped = []
    for inside in sorted(folder.glob("checkpoint-*")):
        step = _STEP.fullmatch(inside.name)
        if not inside.is_dir():
            continue
        try:
            resolve(inside, folder)
        except OSError as error:
            raise CheckpointError(inside, str(error.strerror)) from None
        if step is None:
            skipped.append(inside.name)
        elif (other := found.setdefault(int(step[1]), inside)) is not inside:
            raise CheckpointError(
                folder, f"holds {other.name} and {inside.name}, which are one step; remove one"
            )
    if not found:
        return None
    return Run({found[step].name: found[step] for step in sorted(found)}, tuple(skipped))


def _has_weights(folder: Path) -> bool:
    return lora.adapter_file(folder) is not None or bool(weights_in(folder)[0])
