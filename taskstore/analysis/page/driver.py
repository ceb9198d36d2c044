"""Writes a report on a store as one HTML file: count, draw, fill the template.

The page carries plotly's script (compressed) and its own. A Content-Security-Policy names the
hashes of these two and allows nothing else, so neither a name in a store nor the network can bring
in another. Equal stores give equal pages.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from taskstore.analysis.overlap import measure
from taskstore.analysis.page import compare, figures, palette
from taskstore.analysis.page.body import Chart, Section, sections
from taskstore.analysis.page.facts import Facts, facts
from taskstore.analysis.page.overview import Tile, tiles
from taskstore.locations import ownership, publish
from taskstore.locations.base import PathLike
from taskstore.progress import Callback, silent
from taskstore.public import public
from taskstore.store import Store
from taskstore.store.store import opened

WIDE = 1500  # pixels from which on a chart has a row of the page to itself


@dataclass(frozen=True)
class Page:
    """What was written where."""

    path: Path
    bytes: int
    facts: Facts

    def to_dict(self) -> dict[str, Any]:
        return {"report": str(self.path), "bytes": self.bytes, **self.facts}


@public
def write_page(
    store: Store | PathLike,
    target: PathLike,
    *,
    other: Store | PathLike | None = None,
    vectors: bool = True,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: Callback = silent,
) -> Page:
    """Write a report on a store; without `vectors`, no task is rebuilt for it.

    With an `other` store of the same base, the report sets both side by side, as their manifests
    tell. Raises TargetExists, OutputError, MissingExtra before anything is counted; InputError
    where the bases differ; FormatError, BaseUnavailable.

    >>> taskstore.report("numerals", "numerals.html").path
    PosixPath('numerals.html')
    """
    store, target = opened(store), Path(target)
    figures.require()
    publish.check_file(target, overwrite=overwrite, ours=is_page)
    with publish.file(target, overwrite=overwrite, ours=is_page) as partial:
        if other is not None:
            shown = compare.facts_of_two(store, opened(other))
        else:
            shown = facts(store, measure(store, vectors=vectors, jobs=jobs, progress=progress))
        html = ownership.sealed(render(shown), ownership.HTML).encode()
        partial.write_bytes(html)
    return Page(target, len(html), shown)


def is_page(path: Path) -> bool:
    """Whether a file is a report as it was written, which `overwrite` may replace."""
    return ownership.is_sealed(path, ownership.HTML)


def render(shown: Facts) -> str:
    """The page; the same text for the same facts."""
    from plotly.offline import get_plotlyjs

    two = "stores" in shown
    every = compare.sections(shown) if two else sections(shown)
    title, subtitle = compare.title(shown) if two else (shown["store"], _subtitle(shown))
    writer = (shown["stores"]["A"] if two else shown)["summary"]["writer"]
    code, library = _data("page.js"), get_plotlyjs()
    charts = {chart.id: chart.figure.to_plotly_json() for s in every for chart in s.charts}
    return Template(_data("page.html")).substitute(
        mark=f'<meta name="generator" content="{escape(writer)}">',
        policy=" ".join(map(_hash, (code, library))),
        title=escape(f"{title}: report"),
        subtitle=escape(subtitle),
        store=escape(title),
        tiles="".join(map(_tile, compare.tiles(shown) if two else tiles(shown))),
        links="".join(f'<a href="#{s.id}">{escape(s.title)}</a>' for s in every),
        sections="".join(map(_section, every)),
        notice="" if two or shown["masks"] else f'<p class="notice">{_NO_MASKS}</p>',
        style=_data("page.css"),
        dark=_json(palette.DARK),
        charts=_json(charts),
        plotly=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        code=code,
    )


_NO_MASKS = (
    "No task of this store has masks, only rests or exact tensors: there is no density, no usage "
    "and no overlap to show."
)


def _data(name: str) -> str:
    return files("taskstore.analysis.page").joinpath(name).read_text(encoding="utf-8")


def _json(document: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    """A source of a Content-Security-Policy: this very script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _subtitle(shown: Facts) -> str:
    s = shown["summary"]
    count, tiers = len(s["tasks"]), " and ".join(tier["name"] for tier in s["tiers"])
    return f"{count} fine-tune{'' if count == 1 else 's'} of {s['base_name']}, kept as {tiers}"


def _tile(tile: Tile) -> str:
    bad = ' class="bad"' if tile.is_bad else ""
    return f"<div{bad}><strong>{escape(tile.value)}</strong><span>{escape(tile.name)}</span></div>"


def _section(section: Section) -> str:
    intro = f"<p>{escape(section.intro)}</p>" if section.intro else ""
    charts = "".join(_chart(chart, section, i) for i, chart in enumerate(section.charts))
    group = "panels" if section.tabs else "charts"
    return (
        f'<details class="section" id="{section.id}" open><summary><h2>{escape(section.title)}'
        f'</h2></summary>{intro}{_tabs(section)}<div class="{group}">{charts}</div>'
        f"{section.html}</details>\n"
    )


def _tabs(section: Section) -> str:
    if not section.tabs:
        return ""
    buttons = "".join(
        f'<button role="tab" id="tab-{chart.id}" aria-controls="panel-{chart.id}" '
        f'aria-selected="{"false" if i else "true"}">{escape(chart.title)}</button>'
        for i, chart in enumerate(section.charts)
    )
    return f'<div class="tabs" role="tablist">{buttons}</div>'


def _chart(chart: Chart, section: Section, number: int) -> str:
    wide = ' class="wide"' if (chart.width or 0) > WIDE else ""
    width = f' style="max-width:{chart.width}px"' if chart.width else ""
    panel = (
        f' role="tabpanel" id="panel-{chart.id}" aria-labelledby="tab-{chart.id}"'
        + (" hidden" if number else "")
        if section.tabs
        else ""
    )
    label = escape(f"{section.title}: {chart.title}. The table below has the same figures.")
    height = chart.figure.layout.height
    return (
        f"<figure{wide}{panel}><h3>{escape(chart.title)}</h3>"
        f"<figcaption>{escape(chart.note)}</figcaption>{chart.key}"
        f'<div class="plot"{width}><div id="{chart.id}" role="img" aria-label="{label}" '
        f'style="min-height:{height}px"></div></div>'
        f'<details class="table"><summary>Table</summary>{chart.table}</details></figure>'
    )
