"""Makes what a reader looks for first: tiles, tasks, the family's tree, tiers, what to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from taskstore.analysis.page import words
from taskstore.analysis.page.facts import KEPT, Facts
from taskstore.analysis.page.tables import Bad, BadNumber, Cell, Number, size, some, table
from taskstore.format.fidelity import EXPLAINED, GRADES
from taskstore.store.summary import NOT_MEASURED


@dataclass(frozen=True)
class Tile:
    """A figure and what it is; a bad one is red."""

    value: str
    name: str
    is_bad: bool = False


def tiles(facts: Facts) -> list[Tile]:
    """Fidelity and accuracy, then sizes."""
    s, masks = facts["summary"], facts.get("masks")
    found = [
        _fidelity_tile(s["tasks"]),
        _accuracy_tile(facts),
        Tile(size(s["store_bytes"]), f"store, of {size(s['original_bytes'])} of originals"),
        Tile(f"{s['ratio']:.2f}x", "smaller" if s["ratio"] > 1 else "originals over store"),
        Tile(f"{len(s['tasks'])}", "task" if len(s["tasks"]) == 1 else "tasks"),
        Tile(f"{s['parameters']:,}", "parameters"),
        Tile(
            f"{s['bits_per_parameter_and_task']:.2f}",
            "bits per parameter and task, base not counted",
        ),
    ]
    if masks:
        share = sum(masks["usage"][2:]) / max(1, masks["live"])
        found.append(Tile(f"{share:.0%}", "of live weights used by two tasks or more"))
    return found


def _fidelity_tile(tasks: Sequence[dict[str, Any]]) -> Tile:
    """The worst of all tasks: by grade, then by error."""
    order = ["exact", *GRADES, "C", None]
    grades = {t["name"]: "exact" if _exact(t) else t["fidelity"]["grade"] for t in tasks}
    errors = {t["name"]: t["fidelity"]["error"] or 0.0 for t in tasks}
    worst = max(grades, key=lambda task: (order.index(grades[task]), errors[task]))
    grade = grades[worst]
    if grade == "exact":
        return Tile("exact", "fidelity: every task is its fine-tune, bit for bit")
    of = f"of {len(tasks)} tasks, {worst} is the worst" if len(tasks) > 1 else f"of {worst}"
    return Tile(grade or NOT_MEASURED, f"fidelity {of}", is_weak(tasks, worst))


def is_weak(tasks: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a task's fidelity has the worst grade, or none."""
    found = next(task["fidelity"] for task in tasks if task["name"] == name)
    return found["kind"] != "exact" and found["grade"] not in GRADES


def _accuracy_tile(facts: Facts) -> Tile:
    """The share of the fine-tune's score that the worst task keeps; scores where it is unknown."""
    kept = {task: share for task, share in facts["kept"].items() if share is not None}
    scored = {task for tasks in facts["scores"].values() for task in tasks}
    if not scored:
        return Tile(NOT_MEASURED, "accuracy; taskstore eval --record measures it")
    all_, count = len(facts["summary"]["tasks"]), len(kept or scored)
    some_of = "" if count == all_ else f", {count} of {all_} tasks measured"
    if kept:
        worst = min(kept, key=lambda task: kept[task])
        of = f"accuracy kept of the fine-tune, {worst} is the worst{some_of}"
        return Tile(f"{kept[worst]:.1%}", of, kept[worst] < KEPT)
    label, tasks = next(iter(facts["scores"].items()))
    found = [t["scores"][label]["rebuilt"] for t in facts["summary"]["tasks"] if t["name"] in tasks]
    mean = sum(found) / len(found)
    return Tile(
        f"{mean:.3g}",
        f"{label}, mean of {len(tasks)} task{'s' * (len(tasks) != 1)}; the fine-tunes' is unknown",
    )


def tasks_table(facts: Facts) -> str:
    """A row per task; columns in which no task has anything are left out."""
    columns = ["task", "score", "of the fine-tune's", "fidelity", "tiers", "lambda", "density",
               "masks", "rest", "exact", "private", "bits per parameter", "original"]  # fmt: skip
    tasks = facts["summary"]["tasks"]
    rows = [
        (
            task["name"],
            *quality(facts, task["name"]),
            ", ".join(task["tiers"]),
            None if task["lambda"] is None else Number(f"{task['lambda']:g}"),
            task["density"] if "mask" in task["tiers"] else None,
            *(some(task[f"{part}_bytes"]) for part in ("masks", "rest", "exact", "private")),
            Number(f"{task['bits_per_parameter']:.2f}"),
            size(task["original_bytes"]),
        )
        for task in tasks
    ]
    return table(columns, rows)


def quality(facts: Facts, task: str) -> tuple[Cell, Cell, Cell]:
    """Score, share of the fine-tune's score, and fidelity of a task; bad ones are red."""
    fidelity, (_, scored) = _words(facts, task), facts["fidelity"][task]
    kept = facts["kept"][task]
    share: Cell = None
    if kept is not None:
        share = (BadNumber if kept < KEPT else Number)(f"{kept:.1%}")
    weak = is_weak(facts["summary"]["tasks"], task)
    return scored, share, Bad(fidelity) if weak else fidelity


def _words(facts: Facts, task: str) -> str:
    """The fidelity at the best tier."""
    found = next(one for one in facts["summary"]["tasks"] if one["name"] == task)
    return str(found["fidelity"]["words"])


def explained(facts: Facts) -> str:
    """What the figures of the tasks mean."""
    exact = all(map(_exact, facts["summary"]["tasks"]))
    said = "" if exact else f"{EXPLAINED} {words.RED.format(kept=KEPT)}"
    return said if facts["scores"] else f"{said} {words.UNSCORED}".strip()


def _exact(task: dict[str, Any]) -> bool:
    return bool(task["fidelity"]["kind"] == "exact")


def tree(facts: Facts) -> str:
    """The family as a list: the base, its fine-tunes, and theirs below each."""
    parents, base = facts["parents"], facts["summary"]["base_name"]
    below: dict[str | None, list[str]] = {}
    for task, parent in parents.items():
        below.setdefault(parent if parent in parents else None, []).append(task)
    items, waiting = [_branch(0, base, "base")], [(1, task) for task in reversed(below[None])]
    while waiting:  # a chain may be longer than Python recurses
        depth, task = waiting.pop()
        items.append(_branch(depth, task, facts["fidelity"][task][0]))
        waiting += [(depth + 1, child) for child in reversed(below.get(task, []))]
    return f'<ul class="tree">{"".join(items)}</ul>'


def _branch(depth: int, name: str, said: str) -> str:
    return f'<li style="--depth:{depth}">{escape(name)} <span>{escape(said)}</span></li>'


def tiers_table(facts: Facts) -> str:
    """Bytes of each tier, and what a live model that swaps among all tasks holds with it."""
    masked = any(tier["name"] == "mask" for tier in facts["summary"]["tiers"])
    keeps = words.TIERS if masked else {**words.TIERS, "rest": words.REST_ALONE}
    rows = [
        (
            tier["name"],
            keeps[tier["name"]],
            size(tier["bytes"]),
            Number(f"{tier['own_bits_per_parameter_and_task']:.2f}"),
            size(tier["serving_bytes"]),
        )
        for tier in facts["summary"]["tiers"]
    ]
    columns = ("tier", "keeps", "in the store", "bits per parameter and task", "live memory")
    return table(columns, rows)


def commands(facts: Facts) -> str:
    """Lines to type in the folder of the store."""
    store, s = facts["store"], facts["summary"]
    task = s["tasks"][0]["name"]
    live = any(tier["name"] != "exact" for tier in s["tiers"])
    name = shlex.quote(store if not store.startswith("-") else f"./{store}")
    lines = {
        "Prove every byte": f"taskstore verify {name}",
        "Rebuild a task as a Hugging Face folder": (
            f"taskstore unpack {name} {shlex.quote(task)} -o {shlex.quote(f'{task}-model')}"
        ),
        "Score every task": (
            f"taskstore eval {name} --eval 'python evaluate.py {{model}} {{task}}' --record score"
        ),
        "Load a task in Python": f"taskstore.open({store!r}).load_model({task!r})",
        **({"Serve all tasks from one model": f"taskstore serve {name}"} if live else {}),
    }
    return "".join(
        f"<h3>{escape(what)}</h3><pre><code>{escape(line)}</code></pre>"
        for what, line in lines.items()
    )
