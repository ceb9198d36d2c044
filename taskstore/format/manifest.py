"""The manifest `taskstore.json`: SPEC.md section 5 as types, and its bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from blake3 import blake3

from taskstore.errors import ChecksumMismatch, FormatError, InputError, NewerVersion
from taskstore.format import json_text
from taskstore.format.members import Adapter, Digest, Made, Shape, Shard, Size, Struct
from taskstore.format.names import MANIFEST, TIER_FILES, folder_of

VERSION = 6  # the newest; what needs no more is still written as an older one
TIERS = tuple(TIER_FILES)  # in the order in which they build on each other
MAX_BYTES = 256 << 20
MAX_ASSET = 256 << 20
MAX_HISTORY = 256  # changes, the newest

TOO_MANY = "these are too many tensors for one store; pack fewer tasks together"

_TAIL = b'"checksum": "'
_END = b'"\n}\n'
_ZEROS = b"0" * 64
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class File(Struct, frozen=True, kw_only=True):
    bytes: Size
    blake3: Digest


class Asset(Struct, frozen=True, kw_only=True):
    bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_ASSET)]
    stored: Literal["raw", "zstd"]


class Base(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    carried: bool
    source: str | None
    revision: str | None
    original_bytes: Size
    assets: dict[str, Digest]
    shards: dict[str, Shard] | None = None
    index: dict[str, Digest] | None = None
    beside: dict[str, Digest] | None = None
    left_out: list[str] | None = None


class Merge(Struct, frozen=True, kw_only=True):
    method: str
    options: dict[str, float]


class Tensor(Struct, frozen=True, kw_only=True):
    dtype: str
    shape: Shape
    codec: str
    multitask: str | None
    alias: str | None
    blake3: Digest


class TaskTensor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: Literal["mask", "rest", "exact", "base", "private", "alias", "adapted"]
    dtype: str | None = None
    shape: Shape | None = None
    of: str | None = None
    ones: Size | None = None
    codec: str | None = None
    reason: str | None = None
    lower: list[Digest] | None = None
    made: Made | None = None
    blake3: Digest


class Score(Struct, frozen=True, kw_only=True, omit_defaults=True):
    rebuilt: float
    base: float | None = None
    original: float | None = None
    lower: dict[str, float] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=(1 << 53))] | None = None


class SavedAs(Struct, frozen=True, kw_only=True, omit_defaults=True):
    of: list[str]
    start: Size | None = None
    shape: Shape | None = None


class Sums(Struct, frozen=True, kw_only=True):
    error: float
    weights: float
    vector: float
    product: float

    @classmethod
    def of(cls, sums: Sequence[float]) -> Sums:
        """Return the sums, given in this order."""
        error, weights, vector, product = sums
        return cls(error=error, weights=weights, vector=vector, product=product)


class Measured(Struct, frozen=True, kw_only=True):
    examples: Annotated[int, msgspec.Meta(ge=1, le=(1 << 53))]
    data: Digest


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"lam": "lambda"}):
    lam: float
    origin: str
    source: str | None
    revision: str | None
    original_bytes: Size
    assets: dict[str, Digest]
    tensors: dict[str, TaskTensor]
    tiers: list[Literal["mask", "rest", "exact"]] | None = None
    bits: float | None = None
    statistics: Measured | None = None
    codecs: dict[str, str] | None = None
    fidelity: dict[str, Sums] | None = None
    scores: dict[str, Score] | None = None
    shards: dict[str, Shard] | None = None
    index: dict[str, Digest] | None = None
    names: dict[str, SavedAs] | None = None
    beside: dict[str, Digest] | None = None
    left_out: list[str] | None = None
    folder: str | None = None
    parent: str | None = None
    adapter: Adapter | None = None

    def tiers_of(self, tensor: str) -> tuple[str, ...]:
        """Return the tiers of a tensor, lowest first; empty where it has none."""
        kind = self.tensors[tensor].kind
        if kind not in TIERS:
            return ()
        return tuple(self.tiers) if self.tiers else (kind,)

    def codec(self, tier: str, usual: str) -> str:
        """Return the codec of a tier: the recorded one, else the usual one."""
        return (self.codecs or {}).get(tier, usual)

    def best(self, tensor: str) -> str:
        """Return the highest tier of a tensor, or ""."""
        return (self.tiers_of(tensor) or ("",))[-1]

    @property
    def all_tiers(self) -> tuple[str, ...]:
        """Return every tier that some tensor of the task has, lowest first; an adapter is exact."""
        if self.adapter is not None:
            return ("exact",)
        kinds = {entry.kind for entry in self.tensors.values()}.intersection(TIERS)
        found = (kinds and self.tiers) or kinds
        return tuple(tier for tier in TIERS if tier in found)


class Vectors(Struct, frozen=True, kw_only=True):
    share: float
    norms: dict[str, float]
    cosines: list[list[float | None]]

    def pairs(self) -> dict[frozenset[str], float | None]:
        """Return the cosine of each pair of tasks."""
        names = list(self.norms)
        rows = enumerate(self.cosines)
        return {frozenset((names[i], names[j])): x for i, row in rows for j, x in enumerate(row)}

    def of(self, left: Collection[str]) -> Vectors:
        """Return what is said of the tasks in `left`."""
        kept = [i for i, name in enumerate(self.norms) if name in left]
        return Vectors(
            share=self.share,
            norms={name: norm for name, norm in self.norms.items() if name in left},
            cosines=[[self.cosines[i][j] for j in kept if j < i] for i in kept],
        )


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    what: str
    tasks: list[str] = msgspec.field(default_factory=list)
    when: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    writer: str
    before: Digest | None = None


class Manifest(Struct, frozen=True, kw_only=True, omit_defaults=True, weakref=True):
    format: Literal["taskstore"]
    version: int
    writer: str
    chunk: Size
    base: Base
    merge: Merge
    tensors: dict[str, Tensor]
    tasks: dict[str, Task]
    vectors: Vectors | None = None
    history: list[Change] | None = None
    assets: dict[Digest, Asset]
    files: dict[str, File]

    def folder(self, task: str) -> str:
        """Return the name of the folder below tasks/ in which a task's files lie."""
        return self.tasks[task].folder or folder_of(task)


def to_bytes(manifest: Manifest) -> bytes:
    """Render the manifest: one line per tensor, keys in a fixed order, its checksum last.

    Raises InputError where it would be larger than a reader takes, or holds NaN or Inf.
    """
    document: dict[str, Any] = msgspec.to_builtins(manifest)
    document["checksum"] = _ZEROS.decode()
    try:
        text = "\n".join(_lines(document)) + "\n"
    except ValueError:
        raise InputError("a store cannot record a number that is not finite") from None
    raw = text.encode()
    assert raw.endswith(_TAIL + _ZEROS + _END)
    try:
        json_text.check_values(raw)
    except ValueError as error:
        raise InputError(f"{TOO_MANY}: {error}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{TOO_MANY}: its manifest would have {len(raw) >> 20} MB")
    return raw[: -len(_ZEROS + _END)] + blake3(raw).hexdigest().encode() + _END


def checksum(manifest: Manifest) -> str:
    """Return the checksum that stands at the end of the manifest."""
    return checksum_of(to_bytes(manifest))


def checksum_of(raw: bytes) -> str:
    """Return the checksum at the end of a manifest's bytes, which `from_bytes` has checked."""
    return raw[-len(_ZEROS + _END) : -len(_END)].decode("ascii", "replace")


def _lines(document: Mapping[str, Any], depth: int = 0) -> list[str]:
    """Render JSON in which an object without nested objects takes one line."""
    lines, pad = ["{"], " " * (depth + 1)
    last = len(document) - 1
    for index, (key, value) in enumerate(document.items()):
        comma = "," if index < last else ""
        name = _encode(key)
        if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
            first, *rest = _lines(value, depth + 1)
            lines += [f"{pad}{name}: {first}", *rest[:-1], f"{rest[-1]}{comma}"]
        else:
            lines.append(f"{pad}{name}: {_encode(value)}{comma}")
    return [*lines, " " * depth + "}"]


def from_bytes(raw: bytes) -> Manifest:
    """Parse and check types; `validate.check` does the rest. Raises FormatError and its kin."""
    try:
        document = json_text.parse(raw, strict=True)
    except ValueError as error:
        raise FormatError(f"{MANIFEST} is not valid JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != "taskstore":
        raise FormatError(f"{MANIFEST} is not a taskstore manifest")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{MANIFEST} has no valid version")
    if version > VERSION:
        raise NewerVersion(version, VERSION)
    _check_sum(raw)
    if document.pop("checksum", None) is None:
        raise FormatError(f"{MANIFEST} has no checksum")
    try:
        return msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise FormatError(f"{MANIFEST}: {error}") from None
    except UnicodeEncodeError:
        raise FormatError(f"{MANIFEST} holds half a character where no text belongs") from None


def is_whole(raw: bytes) -> bool:
    """Tell whether a manifest's bytes are those that were written, by their checksum."""
    try:
        _check_sum(raw)
    except FormatError:
        return False
    return True


def _check_sum(raw: bytes) -> None:
    digits = raw[-len(_ZEROS + _END) : -len(_END)]
    head = memoryview(raw)[: -len(_ZEROS + _END)]  # not copied: it may be large
    if not raw.endswith(_TAIL, 0, len(head)) or not raw.endswith(_END):
        raise FormatError(f"{MANIFEST} does not end with its checksum")
    found = blake3(head).update(_ZEROS + _END).hexdigest()
    if found.encode() != digits:
        raise ChecksumMismatch(MANIFEST, digits.decode("ascii", "replace"), found)
