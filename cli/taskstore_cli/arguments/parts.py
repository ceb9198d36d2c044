"""Which part of a pack a process does."""

from __future__ import annotations

import re

import click


class PartOf(click.ParamType[tuple[int, int]]):
    """I/N -> (I, N)."""

    name = "part"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r} is not I/N, the I-th of N parts: 1/16 to 16/16", param, ctx)
        return int(found[1]), int(found[2])
