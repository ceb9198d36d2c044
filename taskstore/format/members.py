"""What members of the manifest are made of, and an adapter that a task keeps (SPEC.md 9)."""

from __future__ import annotations

from typing import Annotated

import msgspec

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53))]
Shape = list[Size]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Members of SPEC.md, in its order; unknown ones are refused."""


class Shard(Struct, frozen=True, kw_only=True):
    header: Digest
    bytes: Size
    blake3: Digest


class Factor(Struct, frozen=True, kw_only=True):
    """One of an adapter's own tensors."""

    dtype: str
    shape: Shape
    blake3: Digest


class Adapter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An adapter's own tensors, its weight file as it was, and the files beside it."""

    tensors: dict[str, Factor]
    assets: dict[str, Digest]
    shards: dict[str, Shard] | None = None


class Made(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a tensor is made of the base's and an adapter's, whose tensors it names.

    saved    it starts as this one; else as the base's of the name `base`, or of its own name
    a, b     factors of a product, times `scale`, of `experts` blocks, `turned` where A comes first;
             `expert`, `row`: it is a part of one block, from this row on
    vector   factors of rows, or with `columns` of columns; with `length` what they get as length
    tokens   rows that replace those of the numbers `rows`
    """

    saved: str | None = None
    base: str | None = None
    a: str | None = None
    b: str | None = None
    scale: float = 1.0
    experts: Size = 1
    expert: Size | None = None
    row: Size = 0
    turned: bool = False
    vector: str | None = None
    columns: bool = False
    length: bool = False
    tokens: str | None = None
    rows: list[Size] | None = None
