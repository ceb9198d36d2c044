"""Writes a statistics file: the header first, then its tensors in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from taskstore.errors import InputError
from taskstore.format import header
from taskstore.format.dtypes import numel
from taskstore.locations.files import write_all, write_all_at
from taskstore.statistics.statistics_file import F32, KINDS, About


class StatisticsWriter:
    def __init__(
        self, path: Path, about: About, shapes: Mapping[tuple[str, str], tuple[int, ...]]
    ) -> None:
        """`shapes`: kind and tensor -> shape, of all that will be put."""
        spans, position = {}, 0
        for kind, tensor in sorted(shapes, key=lambda key: (KINDS.index(key[0]), key[1])):
            shape = shapes[kind, tensor]
            end = position + 4 * numel(shape)
            spans[f"{kind}/{tensor}"] = ("F32", shape, position, end)
            position = end
        head = header.render(spans, about.metadata())
        self._places = {
            name: (len(head) + span[2], span[3] - span[2]) for name, span in spans.items()
        }
        self._fd = os.open(path, os.O_WRONLY)
        write_all(self._fd, head)

    def put(self, kind: str, tensor: str, blocks: Iterable[F32]) -> None:
        """The values of a tensor in C order; raises InputError where one is not finite."""
        begin, size = self._places.pop(f"{kind}/{tensor}")
        done = 0
        for values_N in blocks:
            if not np.isfinite(values_N).all():
                raise InputError(
                    f"the {kind} of tensor {tensor!r} holds NaN or Inf: the model overflows "
                    "float32 on these examples; look at its weights and at the data"
                )
            write_all_at(self._fd, np.ascontiguousarray(values_N, "<f4").data, begin + done)
            done += values_N.size * 4
        assert done == size, (kind, tensor, done, size)

    def __enter__(self) -> StatisticsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        os.close(self._fd)
        assert kind is not None or not self._places, self._places
