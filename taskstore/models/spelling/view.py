"""Readers that give a model's tensors other names, cuts, or more rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.dtypes import ITEMSIZE, MASKED
from taskstore.format.manifest import SavedAs
from taskstore.kernels import cpu
from taskstore.models.checkpoint import Checkpoint, Reader, TensorInfo


@dataclass(frozen=True)
class Piece:
    """`count` elements of `own` from `start` on: the next ones of a tensor."""

    own: str
    start: int
    count: int


class SpelledReader:
    """A model whose tensors `infos` are made of its own as `saved` says, in reverse.

    infos   the tensors that have other names or cuts than the model's own
    saved   own tensor -> how it is made of them (SPEC.md 5, `names`)
    """

    def __init__(
        self, own: Reader, infos: Mapping[str, TensorInfo], saved: Mapping[str, SavedAs]
    ) -> None:
        self._own, self._pieces = own, _pieces(own.tensors, infos, saved)
        same = {name: info for name, info in own.tensors.items() if name not in saved}
        self.tensors: dict[str, TensorInfo] = {**same, **infos}

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        pieces = self._pieces.get(name)
        if pieces is None:
            return self._own.read(name, start, stop)
        if len(pieces) == 1:
            at = pieces[0].start
            return self._own.read(pieces[0].own, at + start, at + stop)
        out_N = np.empty(max(0, stop - start), f"<u{ITEMSIZE[self.tensors[name].dtype]}")
        self.read_into(name, start, out_N)
        return out_N

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        pieces, stop, at = self._pieces.get(name), start + out.size, 0
        if pieces is None:
            self._own.read_into(name, start, out)
            return
        for piece in pieces:
            first, last = max(start, at), min(stop, at + piece.count)
            if first < last:
                begin = piece.start + first - at
                self._own.read_into(piece.own, begin, out[first - start : last - start])
            at += piece.count

    def close(self) -> None:
        self._own.close()


class PaddedReader:
    """A model whose tensors of `short` are read as if they had the base's further rows, too."""

    def __init__(self, own: Reader, base: Reader, short: frozenset[str]) -> None:
        self._own, self._base, self._short = own, base, short
        self.tensors = own.tensors

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        info, theirs = self.tensors[name], self._base.tensors.get(name)
        if name not in self._short or theirs is None or stop <= info.numel:
            return self._own.read(name, start, stop)
        rows_N = self._base.read(name, max(start, info.numel), stop)
        rows_N = cpu.cast(rows_N, theirs.dtype, info.dtype)
        if start >= info.numel:
            return rows_N
        return np.concatenate([self._own.read(name, start, info.numel), rows_N])

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        if name in self._short:
            out[:] = self.read(name, start, start + out.size)
        else:
            self._own.read_into(name, start, out)

    def close(self) -> None:
        self._own.close()


def padded(base: Checkpoint, task: Checkpoint) -> Checkpoint:
    """Return a fine-tune whose vocabulary, if it was cut, can be read up to the base's end.

    `tensors` still say how many rows it has.
    """
    theirs = base.tensors
    short = frozenset(
        name
        for name, info in task.tensors.items()
        if name in theirs
        and {info.dtype, theirs[name].dtype} <= MASKED
        and 0 < info.numel < theirs[name].numel
        and info.shape[1:] == theirs[name].shape[1:]
        and len(info.shape) == len(theirs[name].shape)
    )
    return replace(task, reader=PaddedReader(task.reader, base.reader, short)) if short else task


def _pieces(
    own: Mapping[str, TensorInfo], infos: Mapping[str, TensorInfo], saved: Mapping[str, SavedAs]
) -> dict[str, list[Piece]]:
    found: dict[str, list[tuple[int, Piece]]] = {}
    for name, made in saved.items():
        if made.start is not None:
            piece = Piece(name, 0, own[name].numel)
            found.setdefault(made.of[0], []).append((made.start, piece))
            continue
        at = 0
        for of in made.of:
            found.setdefault(of, []).append((0, Piece(name, at, infos[of].numel)))
            at += infos[of].numel
    return {
        name: [piece for _, piece in sorted(placed, key=lambda pair: pair[0])]
        for name, placed in found.items()
    }
