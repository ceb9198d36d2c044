"""What `serve.py` measured, as lines of two sides and their ratio."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.lines import Cell, Line, Target
from benchmarks.serving.runs import Worker

Found = Mapping[str, Any]


def of(family: Worker, single: Worker, dedicated: Worker, found: Found, nbytes: int) -> list[Line]:
    """`found`: what else the workers said; `nbytes`: of one model."""
    return [
        _throughput("full", family, dedicated, 0.75),
        _throughput("full", single, dedicated, 0.97),
        _throughput("thin", family, dedicated, 0.55),
        *_switches(found, dedicated, nbytes),
        _share(family),
        *_first_tokens("full", family, dedicated),
        *_first_tokens("thin", family, dedicated),
        _memory(found, len(family.tasks)),
    ]


def _throughput(load: str, ours: Worker, other: Worker, goal: float | None) -> Line:
    """Rounds are paired: the ratio is the median of theirs."""
    pairs = zip(ours.loads[load], other.loads[load], strict=True)
    ratio = statistics.median(_rate(a) / _rate(b) for a, b in pairs)
    cells = [
        Cell(one.name, note=f"{statistics.median(map(_rate, one.loads[load])):,.0f} tokens/s")
        for one in (ours, other)
    ]
    target = Target(f">= {goal:.2f}", ratio >= goal) if goal else None
    what = f"throughput, {ours.name}, {load} load"
    return Line(what, cells[0], cells[1], ratio, "the tokens", target)


def _switches(found: Found, dedicated: Worker, nbytes: int) -> list[Line]:
    swap = statistics.median(found["swap"])
    ours = Cell("swap", swap, nbytes / swap)
    lines = []
    for key, cache in (("reload", "in memory"), ("cold", "on disk")):
        reload = statistics.median(found[key])
        other = Cell("reload_weights", reload, nbytes / reload, note=f"files {cache}")
        target = Target(">= 20", reload / swap >= 20)
        lines.append(Line("time to switch", ours, other, reload / swap, "as fast", target))
    start = Cell("another engine", dedicated.start, note="its start, imports not counted")
    target = Target(">= 20", dedicated.start / swap >= 20)
    lines.append(Line("time to switch", ours, start, dedicated.start / swap, "as fast", target))
    return lines


def _share(family: Worker) -> Line:
    swapping, seconds, swaps = (
        sum(load[key] for load in family.loads["full"])
        for key in ("swap_seconds", "seconds", "swaps")
    )
    ours = Cell("swaps", swapping, note=f"{swaps} swaps")
    cells = ours, Cell("all", seconds)
    return Line("share of swaps, full load", *cells, swapping / seconds, "of the time")


def _first_tokens(load: str, family: Worker, dedicated: Worker) -> list[Line]:
    """p50 and p99 over all requests; the task that waits longest is in the note."""
    theirs = _pooled(dedicated.loads[load])[0]
    ours, by_task = _pooled(family.loads[load])
    lines = []
    for percent, most in ((50, 2.5), (99, 6)):
        worst = max(by_task, key=lambda task: _percentile(by_task[task], percent))
        mine, other = _percentile(ours, percent), _percentile(theirs, percent)
        note = f"{worst}: {_percentile(by_task[worst], percent):.2f} s"
        cells = Cell(family.name, mine, note=note), Cell(dedicated.name, other)
        what = f"first token, p{percent}, {load} load"
        target = Target(f"<= {most}", mine / other <= most) if load == "thin" else None
        lines.append(Line(what, *cells, mine / other, "the time", target))
    return lines


def _memory(found: Found, tasks: int) -> Line:
    """On a device what is allocated there, else what is resident, the imports too."""
    where = "device" if found["family_memory"]["device"] else "resident"
    ours, one = found["family_memory"][where], found["dedicated_memory"][where]
    cells = Cell("one engine", nbytes=ours), Cell(f"{tasks} engines", nbytes=tasks * one)
    return Line(f"memory, {where}", *cells, ours / (tasks * one), "the bytes")


def _rate(load: Found) -> float:
    return float(load["tokens"]) / float(load["seconds"])


def _pooled(loads: Sequence[Found]) -> tuple[list[float], dict[str, list[float]]]:
    by_task: dict[str, list[float]] = {}
    for load in loads:
        for task, waits in load["first"].items():
            by_task.setdefault(task, []).extend(waits)
    return [wait for waits in by_task.values() for wait in waits], by_task


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
