"""Types of the options of `taskstore serve`: tasks in a list, and a time."""

from __future__ import annotations

import re
from typing import Any

import click

from taskstore_cli.arguments.common import TaskName


class ServedName(TaskName):
    """A task as the value of an option, which click completes before it has seen the store."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        if ctx.params.get("store") is None and ctx.args:
            ctx.params["store"] = ctx.args[0]
        return super().shell_complete(ctx, param, incomplete)


class ServedNames(ServedName):
    """Tasks with commas between; completes the last one."""

    name = "task,..."

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        items = super().shell_complete(ctx, param, last)
        for item in items:
            item.value = before + comma + item.value
        return items


class Quantum(click.ParamType[float | None]):
    """auto, 0.2, 0.2s or 200ms -> seconds."""

    name = "time"

    def convert(self, value: Any, *_: object) -> float | None:
        if value == "auto":
            return None
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms|s|)", str(value))
        if found is None:
            self.fail(f"{value!r} is not auto, a number of seconds, or like 200ms")
        return float(found[1]) / (1000 if found[2] == "ms" else 1)
