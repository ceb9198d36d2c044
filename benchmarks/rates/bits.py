"""What it costs to keep masks, codes and merged vectors, in bits.

Masks and quantised codes cost the smaller of their nominal size and their order-0 entropy, tensor
by tensor; no table of an entropy coder and no header is counted. A merged vector costs what the
library's own codecs take for W1 given W0, in its chunks: `ulp`, and for fp32 `rounded` where that
is smaller. Methods use the vector that comes back from that, not the one that went in.

Legend: N = weights of all shared tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.rates.vectors import Vectors
from taskstore.format.section import encode
from taskstore.packing.options import PackOptions

CHUNK = PackOptions().chunk
_INTEGERS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Merged:
    """A vector that all tasks share, as it comes back."""

    w1_N: Tensor  # the checkpoint's dtype
    vector_N: Tensor  # float32: W1 - W0
    bits: float  # once, for all tasks


def of_merged(vectors: Vectors, merged_N: Tensor) -> Merged:
    w1_N = torch.empty_like(vectors.base_N)
    total = 0
    for where, _ in vectors.tensors():
        w0, v = vectors.base_N[where], merged_N[where]
        w1_N[where] = (w0.float() + v).to(w0.dtype)
        size = _coded("ulp", w1_N[where], w0)
        if w0.dtype == torch.float32:
            short = v.bfloat16()
            other = _coded("rounded", short)
            if other < size:
                size, w1_N[where] = other, w0 + short.float()
        total += size
    return Merged(w1_N, w1_N.float() - vectors.base_N.float(), 8.0 * total)


def of_codes(vectors: Vectors, codes_N: Tensor, nominal: int) -> float:
    """Codes from 0 on, of `nominal` bits each; a mask has one."""
    total = 0.0
    for where, shape in vectors.tensors():
        counts = torch.bincount(codes_N[where].long())
        counts = counts[counts > 0].double()
        entropy = float(-(counts * (counts / shape.numel()).log2()).sum())
        total += min(nominal * shape.numel(), entropy)
    return total


def _coded(codec: str, chunk_N: Tensor, given_N: Tensor | None = None) -> int:
    """Bytes of a tensor's streams and of the table of their lengths."""
    bits_N, given = _bits(chunk_N), None if given_N is None else _bits(given_N)
    total = 0
    for start in range(0, bits_N.size, CHUNK):
        some = slice(start, start + CHUNK)
        streams = encode(codec, bits_N[some], None if given is None else given[some])
        total += sum(map(len, streams)) + 4 * len(streams)
    return total


def _bits(weights_N: Tensor) -> NDArray[Any]:
    raw_N: NDArray[Any] = weights_N.contiguous().view(_INTEGERS[weights_N.itemsize]).numpy()
    return raw_N.view(f"<u{weights_N.itemsize}").astype(f"<u{weights_N.itemsize}", copy=False)
