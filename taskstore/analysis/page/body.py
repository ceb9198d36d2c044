"""Makes the sections of a page: text, charts, and a table beside each chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from taskstore.analysis.page import figures, keys, overview, palette, words
from taskstore.analysis.page.facts import Facts
from taskstore.analysis.page.figures import HeatMap
from taskstore.analysis.page.tables import Cell, matrix, size, table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMES, CELL = 200, 74  # pixels that the names and a column of a heat map take at most
ALONE = dict.fromkeys(("density", "length"), palette.BLUE)  # series without others beside them


@dataclass(frozen=True)
class Chart:
    """`note` says how to read it, `key` what its colours mean; `width` is its most, in pixels.

    `table` and `key` are HTML.
    """

    id: str
    title: str
    note: str
    figure: Figure
    table: str
    key: str = ""
    width: int | None = None


@dataclass(frozen=True)
class Section:
    """`tabs`: one chart is shown at a time. `html` stands below the charts."""

    id: str
    title: str
    intro: str
    charts: Sequence[Chart] = ()
    tabs: bool = False
    html: str = ""


def sections(facts: Facts) -> list[Section]:
    """The sections in order; those of parts that the store does not have are left out."""
    found = [_tasks(facts)]
    found += [_scores(facts["scores"])] if facts["scores"] else []
    found += [_sizes(facts)]
    if facts["masks"]:
        found += [_masks(facts), _density(facts), _usage(facts)]
        found += [_pairs(facts)] if len(facts["masks"]["tasks"]) > 1 else []
    found += [_vectors(facts["vectors"])] if facts["vectors"] else []
    commands = Section("commands", "Use it", words.COMMANDS, html=overview.commands(facts))
    return [*found, commands, _provenance(facts)]


def _sizes(facts: Facts) -> Section:
    sizes, s = facts["sizes"], facts["summary"]
    parts = dict.fromkeys([*sizes["originals"], *sizes["store"]])
    series = {part: [side.get(part, 0) for side in sizes.values()] for part in parts}
    figure = figures.bars(list(sizes), series, figures.PARTS, unit="size", suffix="B")
    per = 8 / max(1, s["parameters"])
    rows: list[Sequence[Cell]] = [
        (f"store: {part}", size(count), count * per) for part, count in sizes["store"].items()
    ]
    rows.append(("store, all", size(s["store_bytes"]), s["bits_per_parameter"]))
    rows += [(f"originals: {part}", size(n), n * per) for part, n in sizes["originals"].items()]
    rows.append(("originals, all", size(s["original_bytes"]), s["original_bytes"] * per))
    counted = "base and fine-tunes" if s["base_carried"] else "fine-tunes; the base is not counted"
    intro = (
        f"The originals ({counted}) take {s['ratio']:.2f} times the bytes of the store"
        + (
            f", the fine-tunes alone {s['ratio_without_base']:.2f} times those of the store less "
            "its base."
            if s["base_carried"]
            else "."
        )
        + ("" if s["ratio"] > 1 else " The store is not smaller: keep the originals instead.")
    )
    columns = ("part", "size", "bits per parameter of the base")
    note = "Bytes of each part, powers of ten."
    key = keys.legend(series, figures.PARTS)
    chart = Chart("sizes", "Store and originals", note, figure, table(columns, rows), key)
    return Section("size", "Size", intro, [chart])


def _tasks(facts: Facts) -> Section:
    tiers = f"<h3>Tiers</h3><p>{escape(words.LIVE)}</p>{overview.tiers_table(facts)}"
    every = f"{overview.tasks_table(facts)}<h3>Family</h3>{overview.tree(facts)}{tiers}"
    return Section("tasks", "Tasks", overview.explained(facts), html=every)


def _masks(facts: Facts) -> Section:
    masked = [task for task in facts["summary"]["tasks"] if "mask" in task["tiers"]]
    named = [task["name"] for task in masked]
    lams, densities = [task["lambda"] for task in masked], [task["density"] for task in masked]
    lambdas = Chart(
        "lambdas",
        "Lambda",
        words.LAMBDA,
        figures.dots(named, lams, unit="lambda"),
        table(("task", "lambda"), zip(named, lams, strict=True)),
    )
    charts = [
        *([lambdas] if None not in lams and len(set(lams)) > 1 else []),
        Chart(
            "densities",
            "Density over all layers",
            words.DENSITY,
            figures.bars(named, {"density": densities}, ALONE, unit="density", format=".2~f"),
            table(("task", "density"), zip(named, densities, strict=True)),
        ),
    ]
    return Section("masks", "Masks", "", charts)


def _density(facts: Facts) -> Section:
    masks = facts["masks"]
    tasks = masks["tasks"]
    charts = []
    for key, title in (("type", "By layer type"), ("layer", "By layer number")):
        density = masks[f"density_by_{key}"]
        if density is None:
            continue
        high = max((x for row in density["values"] for x in row if x is not None), default=1)
        shown = HeatMap(density["rows"], tasks, density["values"], "density", 0, max(high, 0.01))
        charts.append(_heat_chart(f"density-{key}", title, words.DENSITY_OF_LAYERS, "layer", shown))
    return Section("density", "Mask density", words.WHERE, charts, tabs=len(charts) > 1)


def _usage(facts: Facts) -> Section:
    masks = facts["masks"]
    classes = [_class(name) for name in masks["classes"]]
    kinds = {"all": masks["usage"], **masks["usage_by_kind"]}
    shades = [palette.GREY, palette.ORANGE, *palette.SHADES.get(len(classes) - 2, [])]
    colors = dict(zip(classes, shades, strict=True))
    series = dict(zip(classes, zip(*kinds.values(), strict=True), strict=True))
    shown, live, usage = {**kinds, **masks["usage_by_type"]}, max(1, masks["live"]), masks["usage"]
    intro = (
        f"{masks['live']:,} of {masks['elements']:,} masked weights are live: the multi-task model "
        f"moves them. {sum(usage[2:]) / live:.1%} of them are shared by two tasks or more "
        f"({masks['universal']:,} weights by every task that has them), {usage[1] / live:.1%} "
        f"belong to one task alone, {usage[0] / live:.1%} to none."
    )
    charts = []
    for key, title in (("share", "Share"), ("weights", "Weights")):
        share = key == "share"
        figure = figures.bars(list(kinds), series, colors, unit="live weights", share=share)
        values: list[list[Cell]] = [[sum(row), *row] for row in shown.values()]
        if share:
            values = [[x / max(1, sum(row)) for x in row] for row in shown.values()]
        columns = classes if share else ["live", *classes]
        beside = matrix("layers", columns, list(shown), values)
        note = "Live weights by the number of tasks whose mask holds them."
        legend = keys.legend(classes, colors)
        charts.append(Chart(f"usage-{key}", title, note, figure, beside, legend))
    return Section("usage", "Who uses a weight", intro, charts, tabs=True)


def _class(name: str) -> str:
    """In words, for a legend."""
    words = {"0": "no task", "1": "1 task"}
    return words.get(name, f"{name} tasks" if not name.startswith("all") else name)


def _pairs(facts: Facts) -> Section:
    masks = facts["masks"]
    tasks = masks["tasks"]

    def pairs(key: str, of: str, high: float) -> HeatMap:
        return HeatMap(
            tasks, tasks, masks[key], of, 0, high, masks["both"], "weights in both:", True
        )

    charts = [
        _heat_chart(
            "jaccard",
            "Jaccard index",
            "|a and b| / |a or b|: 1 where two masks are the same, 0 where they share nothing. "
            "Colours end at the largest value off the diagonal.",
            "task",
            pairs("jaccard", "Jaccard index", _high(masks["jaccard"])),
        ),
        _heat_chart(
            "contained",
            "Containment",
            "|a and b| / |a|: the share of the row's mask that the column's mask holds too.",
            "task",
            pairs("contained", "share of the row's mask", 1),
        ),
    ]
    return Section("overlap", "Overlap of tasks", words.OVERLAP, charts)


def _vectors(found: dict[str, Any]) -> Section:
    names, norms, cosines = found["tasks"], found["norms"], found["cosines"]
    rows = [(task, found["of"][task], norm) for task, norm in zip(names, norms, strict=True)]
    low = min((x for row in cosines for x in row if x is not None), default=0)
    high = _high(cosines) if low >= 0 else max(_high(cosines), -low)
    charts = [
        Chart(
            "norms",
            "Length",
            "Euclidean norm of fine-tune minus base, over the weights that both have.",
            figures.bars(names, {"length": norms}, ALONE, unit="norm", format=".3~g"),
            table(("task", "vector of", "length"), rows),
        ),
    ]
    if len(names) > 1:
        charts.append(
            _heat_chart(
                "cosines",
                "Direction",
                "Cosine of two vectors: 1 for the same direction, 0 for directions that have "
                "nothing in common, below 0 for tasks that pull against each other.",
                "task",
                HeatMap(names, names, cosines, "cosine", -high if low < 0 else 0, high, pairs=True),
            )
        )
    part = "" if found["share"] == 1 else f", on {found['share']:.2%} of the weights"
    recorded = set(found["of"].values()) == {"fine-tune"}
    intro = f"{words.MEASURED}{part}." if recorded else words.REBUILT
    return Section("vectors", "Task vectors", intro, charts)


def _scores(scores: dict[str, dict[str, dict[str, float | None]]]) -> Section:
    charts = []
    for number, (label, tasks) in enumerate(scores.items()):
        rows = list(tasks.values())
        sides = [side for side in figures.TIERS if any(row.get(side) is not None for row in rows)]
        series = {side: [row.get(side) for row in rows] for side in sides}
        figure = figures.bars(
            list(tasks), series, figures.TIERS, unit="score", format=".3~g", stacked=False
        )
        note = (
            "The base, each tier that was scored, and the fine-tune that was packed. "
            "n: the number of examples, where the evaluator printed it."
        )
        key = keys.legend(sides, figures.TIERS)
        values = [[*map(row.get, sides), row["n"]] for row in rows]
        beside = matrix("task", [*sides, "n"], list(tasks), values)
        charts.append(Chart(f"scores-{number}", label, note, figure, beside, key))
    intro = "Scores that taskstore eval --record has written into the store."
    return Section("accuracy", "Accuracy", intro, charts)


def _provenance(facts: Facts) -> Section:
    terms = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts["provenance"]
    )
    s, tasks = facts["summary"], facts["summary"]["tasks"]
    digests = facts["digests"]
    rows = [
        (s["base_name"], None, s["base_source"], s["base_revision"], digests[""]),
        *(
            (
                t["name"],
                None if t["origin"] == t["name"] else t["origin"],
                *(t["source"], t["revision"], digests[t["name"]]),
            )
            for t in tasks
        ),
    ]
    columns = ("model", "packed from", "source", "revision", "digest of the weights")
    private = [
        (task["name"], p["name"], " x ".join(map(str, p["shape"])), p["dtype"], p["reason"])
        for task in tasks
        for p in task["private"]
    ]
    html = f"<dl>{terms}</dl><h3>Models</h3>{table(columns, rows)}"
    if facts["changes"]:
        changes = table(("when", "what", "tasks", "written by"), facts["changes"])
        html += f"<h3>Changes</h3>{changes}"
    if private:
        named = table(("task", "tensor", "shape", "dtype", "why"), private)
        html += f"<h3>Private tensors</h3>{named}"
    return Section("provenance", "Provenance", "", html=html)


def _heat_chart(id: str, title: str, note: str, corner: str, shown: HeatMap) -> Chart:
    """No wider than its cells need; `corner` says what the rows of its table are."""
    beside = matrix(corner, shown.columns, shown.rows, shown.values)
    width = NAMES + CELL * max(3, len(shown.columns))
    return Chart(id, title, note, figures.heat_map(shown), beside, keys.scale(shown), width)


def _high(values: Sequence[Sequence[float | None]]) -> float:
    """The largest value off the diagonal, which is one for every task."""
    off = (x for i, row in enumerate(values) for j, x in enumerate(row) if i != j and x is not None)
    return max(0.05, *off, 0.05)
