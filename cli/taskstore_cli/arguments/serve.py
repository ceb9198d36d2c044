"""Types of the options of `taskstore serve`: tasks in a list, a tier, and a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from taskstore_cli.arguments.common import TaskName


class ServedName(TaskName):
    """A task as the value of an option, which click completes before it has seen the store."""

    def words(self, ctx: click.Context, incomplete: str) -> Iterable[str]:
        if ctx.params.get("store") is None and ctx.args:
            ctx.params["store"] = ctx.args[0]
        return super().words(ctx, incomplete)


class ServedNames(ServedName):
    """Tasks with commas between; completes the last one."""

    name = "task,..."

    def words(self, ctx: click.Context, incomplete: str) -> Iterable[str]:
        before, comma, _ = incomplete.rpartition(",")
        return [before + comma + name for name in super().words(ctx, incomplete)]


class ServedTier(click.Choice[str]):
    """A tier; 0 and 1, as it was called before, are understood."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return super().convert({"0": "mask", "1": "rest"}.get(value, value), param, ctx)


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


def scheduling_options(command: Callable[..., None]) -> Callable[..., None]:
    """--quantum, --batching and --policy."""
    options = [
        click.option(
            "--quantum",
            type=Quantum(),
            default="auto",
            show_default=True,
            help="How long a task keeps the engine while others wait: seconds, or 200ms. auto: "
            "from the measured cost of a swap.",
        ),
        click.option(
            "--batching",
            type=click.Choice(["swap", "mixed", "auto"]),
            default="auto",
            show_default=True,
            help="mixed: a step holds requests of several tasks; swap: of one; auto: of several "
            "while that is faster.",
        ),
        click.option(
            "--policy",
            type=click.Choice(["latency", "throughput", "auto"]),
            default="auto",
            show_default=True,
            help="latency: a new request does not wait for whole turns of others; auto: so while "
            "a swap takes less than a tenth of a second.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
