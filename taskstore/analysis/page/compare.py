"""Sets two stores of one family side by side: what is in each, bytes, fidelity, scores, tiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskstore.analysis.page import figures, keys, overview, palette, words
from taskstore.analysis.page.body import Chart, Section
from taskstore.analysis.page.facts import Facts, outline
from taskstore.analysis.page.overview import Tile
from taskstore.analysis.page.tables import Cell, Number, size, table
from taskstore.errors import InputError
from taskstore.store import Store

SIDES = ("A", "B")
COLORS = {"A": palette.BLUE, "B": palette.ORANGE, "fine-tune": palette.GREY}


def facts_of_two(a: Store, b: Store) -> Facts:
    """What both hold, without markup; raises InputError where their bases differ."""
    _check_base(a, b)
    return {"stores": {side: outline(store) for side, store in zip(SIDES, (a, b), strict=True)}}


def _check_base(a: Store, b: Store) -> None:
    ours, theirs = a.manifest.tensors, b.manifest.tensors
    bases = f"{a.path} has {a.manifest.base.name}, {b.path} has {b.manifest.base.name}"
    if missing := sorted(ours.keys() ^ theirs.keys()):
        why = f"only one of them has tensor {missing[0]!r}"
    elif other := [name for name in ours if ours[name].blake3 != theirs[name].blake3]:
        why = f"{len(other)} of {len(ours)} tensors differ, {other[0]!r} is the first"
    else:
        return
    raise InputError(f"these are stores of two bases ({bases}; {why}); compare stores of one base")


def title(shown: Facts) -> tuple[str, str]:
    """The title and the line below it."""
    a, b = (store["store"] for store in shown["stores"].values())
    base = shown["stores"]["A"]["summary"]["base_name"]
    return f"{a} and {b}", f"two stores of one family: A is {a}, B is {b}; the base is {base}"


def tiles(shown: Facts) -> list[Tile]:
    """Fidelity, accuracy and bytes of each."""
    return [
        Tile(tile.value, f"{side}: {tile.name}", tile.is_bad)
        for number in range(3)
        for side, store in shown["stores"].items()
        for tile in [overview.tiles(store)[number]]
    ]


def sections(shown: Facts) -> list[Section]:
    """The sections in order."""
    return [_tasks(shown), *_scores(shown), _sizes(shown), _tiers(shown)]


def _names(shown: Facts) -> list[str]:
    return list(dict.fromkeys(task for one in shown["stores"].values() for task in one["kept"]))


def _tasks(shown: Facts) -> Section:
    stores = shown["stores"]
    columns = ["task"]
    for what in ("score", "of the fine-tune's", "fidelity", "tiers", "bits per parameter"):
        columns += [f"{side}: {what}" for side in SIDES]
    rows: list[Sequence[Cell]] = []
    for task in _names(shown):
        sides = [_side(stores[side], task) for side in SIDES]
        rows.append((task, *(cell for pair in zip(*sides, strict=True) for cell in pair)))
    counts = {side: len(stores[side]["kept"]) for side in SIDES}
    both = sum(all(task in stores[side]["kept"] for side in SIDES) for task in _names(shown))
    intro = f"Tasks: {counts['A']} in A, {counts['B']} in B, {both} in both. "
    intro += overview.explained(stores["A"]) or overview.explained(stores["B"])
    return Section("tasks", "Tasks", intro, html=table(columns, rows))


def _side(store: Facts, name: str) -> list[Cell]:
    task = next((one for one in store["summary"]["tasks"] if one["name"] == name), None)
    if task is None:
        return ["not in it", None, None, None, None]
    bits = Number(f"{task['bits_per_parameter']:.2f}")
    return [*overview.quality(store, name), ", ".join(task["tiers"]), bits]


def _scores(shown: Facts) -> list[Section]:
    stores = shown["stores"]
    labels = list(dict.fromkeys(label for one in stores.values() for label in one["scores"]))
    charts = []
    for number, label in enumerate(labels):
        found = {
            side: {
                t["name"]: t["scores"][label]
                for t in store["summary"]["tasks"]
                if label in t["scores"]
            }
            for side, store in stores.items()
        }
        tasks = [task for task in _names(shown) if any(task in side for side in found.values())]
        series: dict[str, list[float | None]] = {
            side: [of[task]["rebuilt"] if task in of else None for task in tasks]
            for side, of in found.items()
        }
        series["fine-tune"] = [_original(task, *found.values()) for task in tasks]
        series = {name: row for name, row in series.items() if any(x is not None for x in row)}
        figure = figures.bars(tasks, series, COLORS, unit="score", format=".3~g", stacked=False)
        rows = zip(tasks, *series.values(), strict=True)
        beside = table(("task", *series), rows)
        key = keys.legend(series, COLORS)
        note = "Of each task at its best tier in A and in B, and of the fine-tune that was packed."
        charts.append(Chart(f"scores-{number}", label, note, figure, beside, key))
    return [Section("accuracy", "Accuracy", "", charts)] if charts else []


def _original(task: str, *found: dict[str, dict[str, Any]]) -> float | None:
    scores = (side[task].get("original") for side in found if task in side)
    return next((score for score in scores if score is not None), None)


def _sizes(shown: Facts) -> Section:
    stores = {side: one["sizes"]["store"] for side, one in shown["stores"].items()}
    parts = [part for part in figures.PARTS if any(part in one for one in stores.values())]
    series = {part: [one.get(part, 0) for one in stores.values()] for part in parts}
    figure = figures.bars(list(stores), series, figures.PARTS, unit="size", suffix="B")
    rows: list[Sequence[Cell]] = [(part, *map(size, series[part])) for part in parts]
    totals = [one["summary"]["store_bytes"] for one in shown["stores"].values()]
    rows.append(("all", *map(size, totals)))
    key = keys.legend(series, figures.PARTS)
    beside = table(("part", *SIDES), rows)
    chart = Chart("sizes", "Bytes", "Bytes of each part, powers of ten.", figure, beside, key)
    smaller, larger = sorted(SIDES, key=lambda side: totals[SIDES.index(side)])
    ratio = max(totals) / max(1, min(totals))
    intro = f"{larger} takes {ratio:.2f} times the bytes of {smaller}." if ratio > 1 else ""
    return Section("size", "Size", intro, [chart])


def _tiers(shown: Facts) -> Section:
    rows = "".join(
        f"<h3>{side}</h3>{overview.tiers_table(store)}" for side, store in shown["stores"].items()
    )
    return Section("tiers", "Tiers", words.LIVE, html=rows)
