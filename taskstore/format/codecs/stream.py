"""Stores one stream of bytes: all zero, raw, or as one zstd frame; its stored length says which.

stored length   the stream is
0               all zero bytes
= raw length    stored as it is
< raw length    one zstd frame that declares the raw length

The zstd parameters suit bytes without repeats, which is what planes of weights and packed masks
are: strategy fast with a tiny hash table and long matches only, so that nearly everything is a
literal and the entropy coder does the work. On the exponent plane of a bf16 model that gives
2.670 bits where the entropy is 2.666, at 0.6 to 0.9 GB/s per core; level 3 gives 3.31 at a
quarter of the speed, because its match finder prefers short, useless matches.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.rules.frames import inflate

Bytes = NDArray[np.uint8]

PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    window_log=17,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)

# Of two or three different bytes, each sequence of seven comes again soon, and its match is longer
# than the literals: 1.6 bits per random bit. Here the length of every match is weighed: 1.01.
FEW = 16  # different bytes
PARAMETERS_OF_FEW = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_BTOPT,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    target_length=999,
    window_log=17,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)

_local = threading.local()  # zstd contexts are not thread-safe


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _compressor_of_few() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "of_few"):
        _local.of_few = zstandard.ZstdCompressor(compression_params=PARAMETERS_OF_FEW)
    compressor: zstandard.ZstdCompressor = _local.of_few
    return compressor


def store(stream: Bytes, *, weigh_few: bool = False) -> bytes:
    """uint8 (N,) -> the bytes to write, never more than N.

    `weigh_few`: take the slower way for streams of few different bytes.
    """
    if not _any(stream):
        return b""
    few = weigh_few and np.count_nonzero(np.bincount(stream, minlength=256)) <= FEW
    compressor = _compressor_of_few() if few else _compressor()
    return _smaller(compressor.compress(memoryview(stream)), stream)


def store_all(streams: Sequence[Bytes]) -> list[bytes]:
    """`store` each of them, in one call of zstd: a thread waits for the interpreter once."""
    full = [i for i, stream in enumerate(streams) if _any(stream)]
    if len(full) < 2:
        return [store(stream) for stream in streams]
    stored = [b""] * len(streams)
    views: list[bytes | bytearray | memoryview] = [memoryview(streams[i]) for i in full]
    frames = _compressor().multi_compress_to_buffer(views, threads=1)
    for i, at in enumerate(full):
        stored[at] = _smaller(frames[i], streams[at])
    return stored


def _any(stream: Bytes) -> bool:
    return bool(stream[:64].any() or stream.any())


def _smaller(frame: bytes | zstandard.BufferSegment, stream: Bytes) -> bytes:
    if len(frame) >= stream.size:
        return stream.tobytes()
    return frame if isinstance(frame, bytes) else frame.tobytes()


def load(stored: memoryview, size: int) -> Bytes:
    """The bytes written -> uint8 (size,). Allocates `size` bytes at most.

    Raises FormatError where `stored` is longer than `size`, is no zstd frame, or is a frame that
    declares or yields another length.
    """
    if len(stored) == 0:
        return np.zeros(size, np.uint8)
    if len(stored) == size:
        return np.frombuffer(stored, np.uint8)
    if len(stored) > size:
        raise FormatError(f"a stream of {size} bytes is stored in {len(stored)}")
    return np.frombuffer(inflate(stored, size), np.uint8)
