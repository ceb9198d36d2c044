"""Groups the numbers of tasks that use a weight into classes; they stay few for many tasks."""

from __future__ import annotations

from collections.abc import Sequence

EACH = 9  # up to so many tasks every number is a class of its own


def classes(tasks: int) -> list[tuple[str, range]]:
    """(name, numbers of tasks) from none to all; beyond `EACH` tasks: 3-4, 5-8, 9-16 and so on."""
    if tasks <= EACH:
        bounds = [range(k, k + 1) for k in range(tasks + 1)]
    else:
        bounds, start = [range(k, k + 1) for k in range(3)], 3
        while start < tasks:
            stop = min(tasks, 2 * (start - 1) + 1)
            bounds.append(range(start, stop))
            start = stop
        bounds.append(range(tasks, tasks + 1))
    return [(_name(r, tasks), r) for r in bounds]


def grouped(usage: Sequence[int]) -> list[int]:
    """Counts of k = 0 .. T -> counts of the classes of T tasks."""
    return [sum(usage[k] for k in r) for _, r in classes(len(usage) - 1)]


def _name(r: range, tasks: int) -> str:
    if r.start == tasks and tasks > 1:
        return f"all {tasks}"
    return f"{r.start}" if len(r) == 1 else f"{r.start} to {r.stop - 1}"
