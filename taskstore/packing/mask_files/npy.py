"""Mask files of the published TALL-masks code (arXiv 2405.07813): packed masks as numpy saves them.

That code (github.com/nik-dim/tall_masks, src/utils/tallmask_utils.py, find_optimal_mask) puts one
mask per data set, in a dict by the set's name ("Cars", "DTD", ...), into
TALL_mask_{N}task.npy, or TALL_mask_{N}task_use_ties_{...}.npy where the multi-task vector is the
one of TIES. A mask is one vector over every tensor of the state dict (no key is left out, integer
buffers are in it), names sorted, packed by numpy.packbits: the first bit is the highest of the
first byte, and only the end is padded. A 1 takes the multi-task model's weight. The lambda, chosen
per task from 0.2 to 0.6 on validation data, is not in the file. numpy.save of a dict writes a
pickle; `pickled` reads it without running it. A file of one plain array is one mask.

Nothing is loaded: masks stay in the file and are mapped into memory, a range at a time.
"""

from __future__ import annotations

import mmap
import os
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import InputError
from taskstore.locations.files import open_regular
from taskstore.packing.mask_files.safe_pickle import Global, Made, Refused, Span, load

_HEADERS: dict[tuple[int, int], Callable[[BinaryIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_NDARRAY, _DTYPE = Global("numpy ndarray"), Global("numpy dtype")


@dataclass(frozen=True)
class PackedMask:
    """Packed bytes of a file, most significant bit first."""

    path: Path
    start: int
    size: int

    def map(self) -> NDArray[np.uint8]:
        """uint8 (size,), read when it is looked at."""
        with open(open_regular(self.path), "rb") as file:
            return np.memmap(file, np.uint8, "r", self.start, (self.size,))


def bits(packed_P: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.bool_]:
    """Bits [start, stop) of packed bytes, most significant first -> bool (stop - start,)."""
    part = np.unpackbits(packed_P[start >> 3 : (stop + 7) >> 3])
    return part[start & 7 :][: stop - start].view(np.bool_)


def read(path: Path) -> dict[str, PackedMask]:
    """Name -> mask; the name is "" in a file of one plain array. Raises InputError."""
    try:
        with open(open_regular(path), "rb") as file:
            shape, dtype = _header(path, file)
            if dtype != np.dtype(object):
                return {"": _plain(path, file, shape, dtype)}
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                content = load(data, file.tell())
            return _masks(path, content)
    except Refused as error:
        raise InputError(
            f"{path}: its pickle {error}; nothing of it was run: give a numpy.save of a dict from "
            "task to packed mask, or one numpy array per task as NAME=FILE"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = _HEADERS[version](file)
    except (ValueError, KeyError, SyntaxError, RecursionError, tokenize.TokenError):
        raise InputError(f"{path} is no .npy file; masks come as numpy.save writes them") from None
    return shape, dtype


def _plain(path: Path, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> PackedMask:
    _check(path, "its array", shape, dtype.str)
    size, start = os.fstat(file.fileno()).st_size, file.tell()
    if size != start + shape[0]:
        raise InputError(
            f"{path} has {size} bytes where its header says {start + shape[0]}; copy it again"
        )
    return PackedMask(path, start, shape[0])


def _masks(path: Path, content: Any) -> dict[str, PackedMask]:
    shape, _, held = _array(content)
    if shape != () or not isinstance(held, list) or len(held) != 1 or not _is_dict(held[0]):
        raise Refused("is no dict of arrays")
    masks = {}
    for name, value in held[0].items():
        shape, code, span = _array(value)
        _check(path, f"the mask of {name!r}", shape, code)
        if not isinstance(span, Span) or span.stop - span.start != shape[0]:
            raise Refused(f"has other bytes for {name!r} than its shape says")
        masks[name] = PackedMask(path, span.start, shape[0])
    return masks


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and "" not in value


def _array(value: Any) -> tuple[tuple[int, ...], str, Any]:
    """Shape, dtype and content of a pickled array."""
    match value:
        case Made(
            of=Global(maker),
            args=(Global() as kind, *_),
            state=(1, tuple() as shape, Made(of=dtype, args=(str() as code, *_)), bool(), held),
        ) if (
            maker.endswith("_reconstruct")
            and kind == _NDARRAY
            and dtype == _DTYPE
            and all(type(n) is int and n >= 0 for n in shape)
        ):
            return shape, code, held
    raise Refused("is no dict of arrays")


def _check(path: Path, what: str, shape: tuple[int, ...], dtype: str) -> None:
    if len(shape) != 1 or dtype not in ("u1", "|u1"):
        raise InputError(
            f"{path}: {what} is {dtype.lstrip('|')} of shape {list(shape)}, where bits packed by "
            "numpy.packbits are u1 of one dimension"
        )
