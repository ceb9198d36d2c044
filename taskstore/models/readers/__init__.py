"""READERS: suffix of a weight file -> how it is read. A new kind of file is one entry here.

`stems` are the names of a file that is a whole model, or of the index of one; `reader` makes a
`models.checkpoint.Reader` of some files, and raises CheckpointError where they are not what their
suffix says. With a folder, links that leave it are refused; a file may be elsewhere.
tests/models/test_readers.py is what each must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskstore import extras
from taskstore.errors import CheckpointError
from taskstore.locations.pointers import pointer
from taskstore.locations.remote.elsewhere import HERE, Elsewhere
from taskstore.models.checkpoint import Reader
from taskstore.models.readers import index, other_forms
from taskstore.models.readers.safetensors import SafetensorsReader


@dataclass(frozen=True)
class WeightKind:
    """One kind of weight file."""

    stems: tuple[str, ...]  # in a folder; none where such a file is read only when it is named
    reader: Callable[[Sequence[Path], Path | None, Elsewhere], Reader]


def _pytorch(files: Sequence[Path], folder: Path | None, elsewhere: Elsewhere) -> Reader:
    if elsewhere.holds(files[0]):
        raise CheckpointError(
            files[0],
            "is a pickle, and the model has no safetensors files; only those are read where they "
            "are, so fetch the whole model first: cache=True, or hf download",
        )
    extras.need(f"reading {files[0]}", "torch")
    from taskstore.models.readers.pytorch import PytorchReader  # loads torch

    return PytorchReader(files, folder)


READERS: Mapping[str, WeightKind] = {
    ".safetensors": WeightKind(("model", "diffusion_pytorch_model"), SafetensorsReader),
    ".bin": WeightKind(("pytorch_model",), _pytorch),
    ".pt": WeightKind((), _pytorch),
    ".pth": WeightKind((), _pytorch),
    ".ckpt": WeightKind((), _pytorch),
}


def open_files(
    files: Sequence[Path], folder: Path | None = None, elsewhere: Elsewhere = HERE
) -> Reader:
    """Open the weight files of one model, all of one kind; raises CheckpointError for no kind.

    `folder` is the model's, which no link may leave; None: the files were named one by one.
    """
    suffix = files[0].suffix
    if suffix not in READERS:
        raise CheckpointError(files[0], other_forms.of_file(files[0]))
    for file in files:
        if not elsewhere.holds(file) and (wrong := pointer(file, folder)):
            raise CheckpointError(file, wrong.problem)
    return READERS[suffix].reader(files, folder, elsewhere)


def weights_in(folder: Path) -> tuple[list[Path], Path | None, Mapping[str, str]]:
    """Find the weight files of a folder, of the first kind that is there, or none.

    Also returns the index that names them, if any, and its map from tensors to files. Raises
    CheckpointError where shards are missing or it is unclear which files are the model.
    """
    for suffix, kind in READERS.items():
        if kind.stems:
            files, index_path, names = index.find(folder, suffix, kind.stems)
            if files:
                return files, index_path, names
    return [], None, {}
