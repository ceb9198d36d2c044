"""Reads a statistics file: what `taskstore measure` found about one model, for merge methods.

Plain safetensors, float32 (docs/statistics.md has the definitions):

    fisher/TENSOR    as TENSOR    diagonal of the Fisher information (arXiv 2111.09832)
    hessian/TENSOR   as TENSOR    mean squared gradient of the loss (arXiv 2310.12808)
    gram/TENSOR      (I, I)       X^T X / n of the inputs of a linear layer (arXiv 2212.09849)

Names are those of the checkpoint. The metadata holds the digest of its weights, so that statistics
of another model are refused.

Legend: I = inputs of a linear layer, N = elements of a block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from taskstore.errors import BadName, FormatError, StatisticsError
from taskstore.format import header
from taskstore.format.dtypes import numel
from taskstore.format.names import check_tensor_name
from taskstore.locations.files import LocalFile

F32 = NDArray[np.float32]
FORMAT = "taskstore-statistics"
VERSION = 1
DIAGONAL = ("fisher", "hessian")
KINDS = (*DIAGONAL, "gram")
_ITEMSIZE = {"F32": 4}
_LISTS = ("transposed", "shared")

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Shaped(Protocol):
    """A tensor of a model."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on what; the metadata of the file.

    name, model    the model's name then, and the digest of its weights (`format.digests`)
    data, examples BLAKE3 of the data file, and how many of its examples were used
    positions      tokens of all examples (images: of none)
    truncated      examples that were cut to `max_length` tokens
    loss           what an example's loss is, in words
    labels         y of the Fisher: "exact", "sampled" or "data"; "" where there is none
    samples, seed  draws per example where y was sampled, and where drawing began
    transposed     tensors with a Gram matrix whose weight is (I, O), not (O, I)
    shared         tensors with a Gram matrix that are an embedding, too
    """

    name: str
    model: Digest
    data: Digest
    examples: Annotated[int, msgspec.Meta(ge=1)]
    positions: Count
    truncated: Count
    max_length: Count
    loss: str
    labels: str
    samples: Count
    seed: int
    transposed: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        fields = msgspec.structs.asdict(self)
        lists = {key: json.dumps(fields[key]) for key in _LISTS}
        texts = {key: str(value) for key, value in fields.items()}
        return {"format": FORMAT, "version": str(VERSION), "dtype": "F32", **texts, **lists}


class Statistics:
    """An open statistics file; reads are positioned and thread-safe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the header only. Raises StatisticsError where this is no such file."""
        self.path = Path(path)
        with ExitStack() as opening:
            try:
                self._file = opening.enter_context(closing(LocalFile(self.path)))
                found, metadata = header.read(self._file, _ITEMSIZE)
            except OSError as error:
                raise StatisticsError(self.path, f"cannot be read: {error.strerror}") from None
            except header.BadHeader as error:
                raise StatisticsError(self.path, str(error)) from None
            self.about = _about(self.path, metadata)
            self._entries = _entries(self.path, found)
            opening.pop_all()

    def __reduce__(self) -> Any:
        """Another process opens the file at the same path."""
        return Statistics, (self.path,)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if self._entries[kind])

    @property
    def examples(self) -> int:
        return self.about.examples

    @property
    def digest(self) -> str:
        """Of the weights that were measured, as a store's manifest or `digest_of` gives it."""
        return self.about.model

    def tensors(self, kind: str) -> Collection[str]:
        """Names of the tensors that have this kind."""
        return self._entries[kind].keys()

    def shape(self, kind: str, tensor: str) -> tuple[int, ...]:
        return self._entry(kind, tensor).shape

    def read(self, kind: str, tensor: str, start: int, stop: int) -> F32:
        """Elements [start, stop) in C order; raises StatisticsError where one is impossible."""
        entry = self._entry(kind, tensor)
        assert 0 <= start <= stop <= numel(entry.shape), (tensor, start, stop)
        try:
            raw = self._file.read(entry.begin + 4 * start, 4 * (stop - start))
        except (OSError, FormatError) as error:
            raise StatisticsError(self.path, f"cannot be read: {error}") from None
        values_N = np.frombuffer(raw, "<f4")
        if not np.isfinite(values_N).all():
            self._damaged(kind, tensor, "holds NaN or Inf")
        if kind in DIAGONAL and values_N.size and values_N.min() < 0:
            self._damaged(kind, tensor, "holds a negative value, which no square is")
        return values_N

    def gram(self, tensor: str) -> F32:
        """A whole Gram matrix (I, I)."""
        shape = self.shape("gram", tensor)
        gram_II = self.read("gram", tensor, 0, numel(shape)).reshape(shape)
        if gram_II.size and gram_II.diagonal().min() < 0:
            self._damaged("gram", tensor, "holds a negative value on its diagonal")
        return gram_II

    def check_model(self, label: str, tensors: Mapping[str, Shaped], digest: str) -> None:
        """Raise StatisticsError unless the file is about the model with these tensors."""
        for kind, entries in self._entries.items():
            for name, entry in entries.items():
                if name not in tensors:
                    self._another(label, f"it has no tensor {name!r}")
                shape = tensors[name].shape
                if kind == "gram":
                    inputs = shape[0 if name in self.about.transposed else 1 :][:1]
                    shape = inputs * 2 if len(shape) == 2 else ()
                if entry.shape != shape:
                    self._another(
                        label, f"{kind} of {name!r} is {list(entry.shape)}, not {list(shape)}"
                    )
        if digest != self.digest:
            self._another(label, f"its weights are {digest[:16]}..., not {self.digest[:16]}...")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Statistics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, kind: str, tensor: str) -> header.Place:
        found = self._entries[kind].get(tensor)
        if found is None:
            raise StatisticsError(
                self.path,
                f"has no {kind} of tensor {tensor!r}; it can be measured with "
                f"`taskstore measure --kinds {kind}`",
            )
        return found

    def _damaged(self, kind: str, tensor: str, problem: str) -> None:
        raise StatisticsError(
            self.path, f"is damaged: {kind} of tensor {tensor!r} {problem}; measure it again"
        )

    def _another(self, label: str, why: str) -> None:
        raise StatisticsError(
            self.path,
            f"statistics of another model ({self.about.name}), not of {label}: {why}; measure it "
            f"again with `taskstore measure {label} --data FILE.jsonl -o {self.path.name}`",
        )


def _about(path: Path, metadata: Any) -> About:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise StatisticsError(
            path, "is no statistics file; `taskstore measure` writes one for a model"
        )
    version = str(metadata.get("version", ""))
    if version.isdecimal() and version.isascii() and len(version) < 9 and int(version) > VERSION:
        raise StatisticsError(
            path, f"has version {version}, this taskstore reads up to {VERSION}; upgrade taskstore"
        )
    if version != str(VERSION):
        raise StatisticsError(path, f"is damaged: its version is {version[:20]!r}")
    try:
        lists = {key: json.loads(metadata[key]) for key in _LISTS}
        return msgspec.convert({**metadata, **lists}, About, strict=False)
    except (KeyError, TypeError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise StatisticsError(path, f"is damaged: its metadata is not right: {error}") from None


def _entries(path: Path, found: Mapping[str, header.Place]) -> dict[str, dict[str, header.Place]]:
    """kind -> tensor -> where it lies."""
    entries: dict[str, dict[str, header.Place]] = {kind: {} for kind in KINDS}
    for full, entry in found.items():
        kind, slash, name = full.partition("/")
        if kind not in entries or not slash:
            raise StatisticsError(path, f"is damaged: {full!r} is no statistic of a tensor")
        try:
            check_tensor_name(name)
        except BadName as error:
            raise StatisticsError(path, str(error)) from None
        if kind == "gram" and (len(entry.shape) != 2 or entry.shape[0] != entry.shape[1]):
            raise StatisticsError(path, f"is damaged: {full!r} is no square matrix")
        entries[kind][name] = entry
    return entries


def is_statistics(path: Path) -> bool:
    """Whether this is a file that `measure` wrote."""
    try:
        Statistics(path).close()
    except StatisticsError:
        return False
    return True
