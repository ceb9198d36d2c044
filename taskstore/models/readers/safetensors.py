"""Read safetensors checkpoints: one file, or shards with or without their index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import BadName, CheckpointError, FormatError
from taskstore.format import header
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.names import check_tensor_name
from taskstore.locations.base import OpenFile
from taskstore.locations.files import LocalFile
from taskstore.locations.remote.elsewhere import HERE, Elsewhere
from taskstore.models.checkpoint import TensorInfo
from taskstore.models.original_files import WeightFile, weight_file

BLOCK = 1 << 20
_Where = tuple[Path, OpenFile, header.Place]


class SafetensorsReader:
    """All tensors of some safetensors files, read with plain positioned reads."""

    def __init__(
        self, files: Sequence[Path], folder: Path | None = None, elsewhere: Elsewhere = HERE
    ) -> None:
        """Raises CheckpointError where a file is missing, broken or repeats a name."""
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, _Where] = {}
        self._open_files: list[OpenFile] = []
        self.files: list[WeightFile] = []
        self.repeats = False  # whether a tensor stands in two files
        try:
            for path in files:
                self._open(path, folder, elsewhere)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, folder: Path | None, elsewhere: Elsewhere) -> None:
        try:
            file = elsewhere.open(path, folder)
        except OSError as error:
            raise CheckpointError(path, f"cannot be opened: {error.strerror}") from None
        self._open_files.append(file)
        try:
            entries, _ = header.read(file, ITEMSIZE)
        except header.BadHeader as error:
            raise CheckpointError(path, str(error)) from None
        except (OSError, FormatError) as error:
            raise CheckpointError(path, f"cannot be read: {error}") from None
        self.files.append(weight_file(file, path))
        for name, entry in entries.items():
            try:
                check_tensor_name(name)
            except BadName as error:
                raise CheckpointError(path, str(error)) from None
            if name in self._places:
                self._repeated(path, name, (path, file, entry))
                continue
            self._places[name] = (path, file, entry)
            self.tensors[name] = TensorInfo(entry.dtype, entry.shape)

    def _repeated(self, path: Path, name: str, again: _Where) -> None:
        """Take a tensor that stands in two files once; raises CheckpointError where they differ."""
        first, info = self._places[name], self.tensors[name]
        same = (info.dtype, info.shape) == (again[2].dtype, again[2].shape)
        for start in range(0, info.numel if same else 0, BLOCK):
            one, two = (
                np.empty(min(BLOCK, info.numel - start), f"<u{ITEMSIZE[info.dtype]}")
                for _ in range(2)
            )
            _read(first, start, one)
            _read(again, start, two)
            same = same and bool(np.array_equal(one, two))
        if not same:
            raise CheckpointError(
                path, f"tensor {name!r} stands in {first[0].name} too, with other weights"
            )
        self.repeats = True

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        out_N = np.empty(stop - start, f"<u{ITEMSIZE[self.tensors[name].dtype]}")
        self.read_into(name, start, out_N)
        return out_N

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        _read(self._places[name], start, out)

    def close(self) -> None:
        while self._open_files:
            self._open_files.pop().close()


def _read(where: _Where, start: int, out: NDArray[Any]) -> None:
    path, file, place = where
    view = memoryview(out).cast("B") if out.size else memoryview(b"")
    offset = place.begin + start * ITEMSIZE[place.dtype]
    try:
        if not isinstance(file, LocalFile):
            view[:] = file.read(offset, len(view))
            return
        while view:
            got = os.preadv(file.fd, [view], offset)
            if not got:
                raise CheckpointError(path, "became shorter while it was read")
            view, offset = view[got:], offset + got
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from None
