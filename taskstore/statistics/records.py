"""Reads examples from a file of JSON lines, and keeps a bounded number of them.

The file is read once, however long it is, and hashed. Where it has more lines than wanted, each is
kept with the same chance (Vitter's algorithm R), since files are often sorted by class.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from taskstore.errors import BadExample, InputError
from taskstore.format import json_text
from taskstore.locations.files import open_regular

MAX_LINE = 4 << 20


@dataclass(frozen=True)
class Record:
    """One JSON object of a data file; `fail` makes the error that names its line."""

    path: Path
    line: int  # from 1
    value: dict[str, Any]

    def fail(self, problem: str) -> BadExample:
        return BadExample(self.path, self.line, problem)

    def text(self, key: str) -> str:
        """The member `key`, which must be a string."""
        found = self.value.get(key)
        if not isinstance(found, str):
            raise self.fail(f"{key!r} is not there, or is no string")
        if any("\ud800" <= char <= "\udfff" for char in found):
            raise self.fail(f"{key!r} holds half a character, which no tokenizer takes")
        return found


@dataclass(frozen=True)
class Data:
    """The lines that were kept, in the order of the file."""

    blake3: str
    lines: int  # that are not blank, in the whole file
    records: Sequence[Record]


def read(path: Path, limit: int, seed: int) -> Data:
    """Raises InputError; BadExample names a line that cannot be used."""
    state, kept, count, number = blake3(), dict[int, tuple[int, bytes]](), 0, 0
    chance = random.Random(seed)
    try:
        with open(open_regular(path), "rb") as file:
            while raw := file.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    raise BadExample(path, number, f"is longer than {MAX_LINE >> 20} MiB")
                state.update(raw)
                if not raw.strip():
                    continue
                slot = count if count < limit else chance.randrange(count + 1)
                if slot < limit:
                    kept[slot] = (number, raw)
                count += 1
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not kept:
        raise InputError(f"{path} holds no examples; give one JSON object per line")
    records = [_parse(path, line, raw) for line, raw in sorted(kept.values())]
    return Data(state.hexdigest(), count, records)


def _parse(path: Path, line: int, raw: bytes) -> Record:
    try:
        value = json_text.parse(raw)
    except ValueError as error:
        raise BadExample(path, line, f"is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadExample(path, line, "is no JSON object such as {'prompt': ..., 'answer': ...}")
    return Record(path, line, value)
