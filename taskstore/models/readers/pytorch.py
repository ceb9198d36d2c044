"""Read `pytorch_model.bin`: pickles, opened only through torch's `weights_only` unpickler.

Files of the zip form are memory-mapped, so only the blocks that are read become resident. Files
of the form before torch 1.6 cannot be mapped and are loaded whole.
"""

from __future__ import annotations

import errno
import pickle
import threading
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskstore.errors import BadName, CheckpointError
from taskstore.format.dtypes import ITEMSIZE
from taskstore.format.names import check_tensor_name
from taskstore.kernels.torch_dtypes import DTYPES
from taskstore.locations.files import LocalFile, open_regular
from taskstore.models.checkpoint import TensorInfo

_INSIDE = ("state_dict", "model_state_dict", "model", "module")  # of a training's checkpoint


class PytorchReader:
    """All tensors of some `.bin` files."""

    def __init__(self, files: Sequence[Path], folder: Path | None = None) -> None:
        """Raises CheckpointError for anything but flat dicts of dense tensors."""
        self.tensors: dict[str, TensorInfo] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()
        self._flat: tuple[str, torch.Tensor] = ("", torch.empty(0))
        for path in files:
            for name, value in _weights(_load(path, folder)).items():
                self._add(path, name, value)

    def _add(self, path: Path, name: Any, value: Any) -> None:
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                path, f"is not a flat dict of tensors: {name!r} is a {type(value).__name__}"
            )
        if value.dtype not in DTYPES or value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(path, f"tensor {name!r} is {value.dtype}, {value.layout}")
        if value.is_meta or value.is_conj() or value.is_neg():
            raise CheckpointError(path, f"tensor {name!r} is a view that is not stored as it is")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(path, f"tensor {name!r} claims more elements than are stored")
        try:
            check_tensor_name(name)
        except BadName as error:
            raise CheckpointError(path, str(error)) from None
        if name in self._values and not _same(self._values[name], value):
            raise CheckpointError(path, f"tensor {name!r} stands in two files, with other weights")
        self._values[name] = value.detach()
        self.tensors[name] = TensorInfo(DTYPES[value.dtype], tuple(value.shape))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        size = ITEMSIZE[self.tensors[name].dtype]
        if stop <= start:
            return np.empty(0, f"<u{size}")
        found = self._flatten(name)[start:stop].view(torch.uint8).numpy().view(f"<u{size}")
        return found.copy()  # its file may change meanwhile, or align nothing

    def _flatten(self, name: str) -> torch.Tensor:
        """Flatten to (N,), C order; a tensor that lies otherwise in its file is copied."""
        value = self._values[name]
        if value.is_contiguous():
            return value.view(-1)
        with self._lock:
            if self._flat[0] != name:
                self._flat = name, value.reshape(-1)
            return self._flat[1]

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        out[:] = self.read(name, start, start + out.size)

    def close(self) -> None:
        self._values.clear()
        self._flat = ("", torch.empty(0))


def _weights(value: dict[Any, Any]) -> dict[Any, Any]:
    """Return the weights of a checkpoint that holds more, such as Lightning's `state_dict`."""
    for name in _INSIDE:
        inside = value.get(name)
        if isinstance(inside, dict) and inside:
            return inside
    return value


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Tell whether dtype, shape and bits are equal."""
    same = (one.dtype, one.shape) == (two.dtype, two.shape)
    flat = [value.detach().reshape(-1).view(torch.uint8) for value in (one, two) if same]
    return same and torch.equal(*flat)


def _check_file(path: str) -> None:
    """Raise OSError unless it is a regular file; a zip whose parts are packed could be any size."""
    with open(open_regular(path), "rb") as file:
        if not zipfile.is_zipfile(file):
            return
        if any(part.compress_type for part in zipfile.ZipFile(file).infolist()):
            raise OSError(errno.EINVAL, "its parts are compressed, as no torch.save does it")


def check_plain(path: Path) -> None:
    """Raise CheckpointError unless a pickle is a dict of plain tensors; nothing else is run."""
    _load(path, None)


def _load(path: Path, folder: Path | None) -> dict[Any, Any]:
    try:
        with closing(LocalFile(path, folder)) as file:
            _check_file(file.name)
            value = _unpickled(file.name)
    except FileNotFoundError:
        raise CheckpointError(path, "is missing") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            path, "is a pickle that is not plain tensors, and is not opened; convert it yourself"
        ) from None
    except Exception as error:  # a hostile file may break the unpickler anywhere
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(path, f"cannot be read: {reason}") from None
    if not isinstance(value, dict):
        raise CheckpointError(path, f"is not a dict of tensors but a {type(value).__name__}")
    return value


def _unpickled(name: str) -> Any:
    try:
        return torch.load(name, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(name, map_location="cpu", weights_only=True)
