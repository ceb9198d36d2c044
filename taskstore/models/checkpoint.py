"""What every kind of checkpoint offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from taskstore.format.dtypes import nbytes, numel
from taskstore.format.manifest import SavedAs
from taskstore.models.original_files import Originals


@dataclass(frozen=True)
class TensorInfo:
    """Safetensors dtype and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return numel(self.shape)

    @property
    def nbytes(self) -> int:
        return nbytes(self.dtype, self.shape)


class Reader(Protocol):
    """The tensors of a checkpoint."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape by name."""

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read elements [start, stop) in C order as little-endian unsigned integers of their size.

        A dtype of 8-byte elements or less comes as uint8, 16, 32 or 64; thread-safe.
        """

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        """Read as many elements as `out` has into it, as `read` does."""

    def close(self) -> None:
        """Release what is open; reading afterwards is an error."""


def nothing() -> None:
    """What there is to prove of a model in a folder, which has no checksums, and to release."""


@dataclass(frozen=True)
class Checkpoint:
    """A model: its tensors and what lies beside them in its folder."""

    name: str
    path: Path
    reader: Reader
    assets: Mapping[str, Path]  # path inside the folder -> file: config, tokenizer, templates
    skipped: tuple[str, ...]  # files that are neither weights nor assets, and why
    original_bytes: int  # weights and assets on disk
    source: str | None = None  # hub id or absolute path
    revision: str | None = None
    originals: Originals | None = None  # None where they were no safetensors files
    prove: Callable[[], None] = nothing  # raises unless what was read is as recorded
    names: Mapping[str, SavedAs] = field(default_factory=dict)  # own tensors that have others here
    spelling: str = ""  # by which rule these were found
    beside: Mapping[str, Path] = field(default_factory=dict)  # weights beside the model's own
    left_out: tuple[str, ...] = ()  # weights of its folder that are not carried
    notes: tuple[str, ...] = ()  # what its user should know, each a line
    failed: tuple[str, ...] = ()  # rules for names whose weights are not the base's
    release: Callable[[], None] = nothing  # what else is to be closed with it
    address: str | None = None  # of a model that is elsewhere, pinned
    digest: str | None = None  # of all tensors, where a store has recorded it

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.reader.tensors

    @property
    def where(self) -> str:
        """What another process opens it by."""
        return self.address or os.path.abspath(self.path)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        return self.reader.read(name, start, stop)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        self.reader.read_into(name, start, out)

    def close(self) -> None:
        self.reader.close()
        self.release()
