"""Decompress what a store keeps as a zstd frame: one frame that declares and yields its size."""

from __future__ import annotations

import threading

import zstandard

from taskstore.errors import FormatError

_local = threading.local()  # zstd contexts are not thread-safe


def inflate(frame: memoryview | bytes, size: int) -> bytes:
    """Decompress one zstd frame that must declare and yield exactly `size` bytes."""
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != size:
            raise FormatError(f"a zstd frame declares {declared} bytes where {size} belong")
        plain = _decompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"a zstd frame of {len(frame)} bytes is broken: {error}") from None
    if len(plain) != size:
        raise FormatError(f"a zstd frame yields {len(plain)} bytes where {size} belong")
    return plain


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
