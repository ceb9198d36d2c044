"""A reader that gives a model's tensors other names, and cuts or joins them on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.manifest import SavedAs
from taskstore.models.checkpoint import Reader, TensorInfo


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
