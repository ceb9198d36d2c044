"""Find the weight files of a folder: by the index if there is one, else a file or shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.format import json_text
from taskstore.locations.pointers import pointer
from taskstore.models.checkpoint import TensorInfo

MAX_FILE_NAME = 255  # bytes, of any usual file system
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")

TIED = (  # ends of the names of a vocabulary's matrix, of which a model may have saved one
    *("lm_head.weight", "embed_out.weight", "decoder.weight", "embed_tokens.weight"),
    *("wte.weight", "shared.weight", "word_embeddings.weight", "tok_embeddings.weight"),
)


def weight_map(index: Path) -> dict[str, str]:
    """Read an index, tensor -> file name; raises CheckpointError where one leaves its folder."""
    try:
        files = json_text.read(index, index.parent)["weight_map"]
        pairs = {str(name): str(file) for name, file in files.items()}
    except ValueError as error:
        wrong = pointer(index, index.parent)
        problem = wrong.problem if wrong else f"is not an index: {error}"
        raise CheckpointError(index, problem) from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(index, "is not an index: it has no weight_map") from None
    except OSError as error:
        raise CheckpointError(index, f"cannot be read: {error.strerror}") from None
    for file in set(pairs.values()):
        if not _is_file_name(file):
            raise CheckpointError(index, f"names the shard {file[:99]!a}, which is not beside it")
        if not (index.parent / file).is_file():
            raise CheckpointError(index, f"names the shard {file!r}, which is missing")
    return pairs


def _is_file_name(name: str) -> bool:
    """Tell whether a file system could have a file of that name in the folder of its index."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    plain = name == Path(name).name and name not in ("", ".", "..") and "\0" not in name
    return plain and size <= MAX_FILE_NAME


def check_against_index(
    index: Path, tensors: Mapping[str, TensorInfo], names: Mapping[str, str]
) -> None:
    """Raise CheckpointError unless the shards hold what the index names, as transformers wants it.

    A tied matrix may be missing under one of its names; what shards hold beside it counts, too.
    """
    missing = sorted(set(names) - set(tensors))
    ends = [end for end in TIED if any(name.endswith(end) for name in tensors)]
    lost = [name for name in missing if not (ends and name.endswith(TIED))]
    if lost:
        raise CheckpointError(
            index,
            f"names {lost[0]!r}, which no shard holds ({len(lost)} such); fetch the shards again, "
            "or remove the index where it is an old one",
        )


def find(
    folder: Path, suffix: str, stems: Iterable[str]
) -> tuple[list[Path], Path | None, Mapping[str, str]]:
    """Return the weight files with `suffix`, the index that names them, if any, and its map.

    `stems`: what the file of a whole model is called.

    Raises CheckpointError where shards are missing or it is unclear which files are the model.
    """
    for stem in stems:
        index = folder / f"{stem}{suffix}.index.json"
        if (folder / f"{stem}{suffix}").is_file():  # first, as transformers takes them
            return [folder / f"{stem}{suffix}"], None, {}
        if index.is_file():
            names = weight_map(index)
            return [folder / f for f in sorted(set(names.values()))], index, names
    files = sorted(p for p in folder.glob(f"*{suffix}") if _is_model(p))
    if len(files) > 1:
        _check_complete(folder, files)
    return files, None, {}


def _is_model(path: Path) -> bool:
    return path.is_file() and not is_state(path)


def is_state(path: Path) -> bool:
    """Tell whether a file is named as an adapter's, or as what else a training writes."""
    return path.name.startswith(("adapter_", "training_", "optimizer", "."))


def _check_complete(folder: Path, files: Iterable[Path]) -> None:
    shards = [(path, _SHARD.search(path.stem)) for path in files]
    stems = {path.stem[: m.start()] if m else path.stem for path, m in shards}
    if len(stems) > 1:
        raise CheckpointError(
            folder, f"holds several models ({', '.join(sorted(stems))}); name one file"
        )
    numbers = {int(m[1]) for _, m in shards if m}
    totals = {int(m[2]) for _, m in shards if m}
    if len(totals) != 1 or numbers != set(range(1, max(totals) + 1)):
        raise CheckpointError(folder, "has no index and not all of its shards")
