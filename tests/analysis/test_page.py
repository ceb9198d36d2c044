"""The HTML report: its figures, what it lets in, and how it is written."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import taskstore
from taskstore.analysis.overlap import measure
from taskstore.analysis.overlap.classes import classes, grouped
from taskstore.analysis.page import palette, write_page
from taskstore.analysis.page.body import sections
from taskstore.analysis.page.driver import render
from taskstore.analysis.page.facts import facts
from taskstore.analysis.page.tables import size, table
from taskstore.errors import MissingExtra, OutputError, TargetExists
from taskstore.format.manifest import Score
from taskstore.packing import revise
from tests.support import families, forge
from tests.support.families import Family
from tests.support.overlaps import wide

HOSTILE = "a<b&\"c'</script><img src=x onerror=alert(1)>$title"
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "h1", "h2", "h3", "p",
    "div", "strong", "span", "nav", "a", "main", "noscript", "details", "summary", "figure",
    "figcaption", "ul", "li", "i", "table", "thead", "tbody", "tr", "th", "td", "button", "dl",
    "dt", "dd", "script", "pre", "code",
}  # fmt: skip


class Parsed(HTMLParser):
    """Tags, attributes, text, and the contents of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and data.strip():
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.text += data

    def script(self, id: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == id)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose task, tensor, evaluation and folder are named to break out of a page."""
    root = tmp_path_factory.mktemp("hostile")
    task = HOSTILE.replace("/", "")
    base = families.random_state(0, shapes={f"layers.0.{HOSTILE}": (40, 16), "b": (8,)})
    made = Family(root, base, {"first": families.tuned(base, 1), "second": families.tuned(base, 2)})
    store = root / task
    paths = {task: made.paths["first"], "b": made.paths["second"]}
    taskstore.pack(made.base_path, paths, store, families.options())

    score = Score(rebuilt=0.5, base=0.25, n=1319)
    revise.record(taskstore.open(store), HOSTILE, {task: score, "b": score})

    def came_from(document: forge.Document) -> None:
        document["base"]["source"] = HOSTILE
        for entry in document["tasks"].values():
            entry["source"] = HOSTILE

    forge.edit(store, came_from)
    return store


def test_the_facts_are_the_store_s(packed: Path) -> None:
    store = taskstore.open(packed)
    shown = facts(store, measure(store, vectors=True))
    assert json.loads(json.dumps(shown)).keys() == shown.keys()
    assert sum(shown["sizes"]["store"].values()) == sum(
        p.stat().st_size for p in packed.rglob("*") if p.is_file()
    )
    masks, entries = shown["masks"], store.manifest.tasks["beta"].tensors
    assert masks["tasks"] == ["alpha", "beta", "gamma"]
    by_type = masks["density_by_type"]
    row = by_type["values"][by_type["rows"].index("attn")]
    assert row[1] == (entries["layers.0.attn.weight"].ones or 0) / (33 * 31)
    by_layer = masks["density_by_layer"]
    assert by_layer["rows"] == ["outside", "layer 0", "layer 1"]
    ones = sum(entries[n].ones or 0 for n in ("layers.0.attn.weight", "layers.0.bias"))
    assert by_layer["values"][1][1] == pytest.approx(ones / (33 * 31 + 7))
    assert sum(masks["usage"]) == masks["live"]
    assert [sum(counts) for counts in zip(*masks["usage_by_kind"].values(), strict=True)] == (
        masks["usage"]
    )


@pytest.mark.parametrize("tasks", [1, 2, 9, 10, 17, 50, 500])
def test_classes_share_out_every_number(tasks: int) -> None:
    found = classes(tasks)
    assert [k for _, r in found for k in r] == list(range(tasks + 1))
    assert len({name for name, _ in found}) == len(found) <= 13
    assert len(found) - 2 in palette.SHADES or tasks == 1
    usage = list(range(tasks + 1))
    assert sum(grouped(usage)) == sum(usage)


def test_classes_by_hand() -> None:
    assert [name for name, _ in classes(3)] == ["0", "1", "2", "all 3"]
    assert [name for name, _ in classes(20)] == ["0", "1", "2", "3 to 4", "5 to 8", "9 to 16",
                                                 "17 to 19", "all 20"]  # fmt: skip


def test_nothing_breaks_out_of_the_page(hostile: Path, tmp_path: Path) -> None:
    write_page(taskstore.open(hostile), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    parsed = Parsed(html)
    assert set(parsed.tags) <= TAGS
    assert parsed.tags.count("script") == 4
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert HOSTILE.replace("/", "") in parsed.text, "a reader sees the name as it is"
    figures = json.loads(parsed.script("figures"))
    trace = figures["jaccard"]["data"][0]
    assert trace["x"][0] == "a&lt;b&amp;\"c'&lt;script&gt;&lt;img src=x onerror=alert(1)&gt;$title"
    for text in re.findall(r'"(?:x|y|text|name)":(\[.*?\]|".*?")', parsed.script("figures")):
        assert "<" not in text.replace("<br>", "")


def test_the_page_needs_nothing_and_runs_only_its_own(packed: Path, tmp_path: Path) -> None:
    write_page(taskstore.open(packed), tmp_path / "r.html", vectors=False)
    parsed = Parsed((tmp_path / "r.html").read_text())
    for tag, name, value in parsed.attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
    policy = next(v for _, name, v in parsed.attributes if name == "content" and "default" in v)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    library = gzip.decompress(base64.b64decode(parsed.script("plotly"))).decode()
    code = next(text for attributes, text in parsed.scripts if not attributes)
    for script in (library, code):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "base-uri 'none'" in policy and "form-action 'none'" in policy
    assert "unsafe-eval" not in policy and "http" not in policy
    dark = json.loads(parsed.script("dark"))
    figures = parsed.script("figures").lower()
    assert set(re.findall(r"#[0-9a-f]{6}", figures)) <= dark.keys(), "every colour has a partner"


def test_equal_stores_give_equal_pages(packed: Path) -> None:
    store = taskstore.open(packed)
    pages = {render(facts(store, measure(store, vectors=True, jobs=jobs))) for jobs in (1, 3)}
    assert len(pages) == 1


def test_what_is_there_already(packed: Path, tmp_path: Path) -> None:
    store, target = taskstore.open(packed), tmp_path / "deep" / "r.html"
    write_page(store, target, vectors=False)
    first = target.read_bytes()
    with pytest.raises(TargetExists, match="overwrite=True"):
        write_page(store, target)
    assert target.read_bytes() == first
    write_page(store, target, overwrite=True)
    assert target.read_bytes() != first, "now with vectors"
    assert [p.name for p in target.parent.iterdir()] == ["r.html"]
    target.write_text("my own notes")
    with pytest.raises(OutputError, match="not something that taskstore wrote"):
        write_page(store, target, overwrite=True)
    assert target.read_text() == "my own notes"
    with pytest.raises(OutputError):
        write_page(store, tmp_path, overwrite=True)


def test_without_plotly(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r"plotly, the extra report: .*\[report\]"):
        write_page(taskstore.open(packed), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def titles(shown: dict[str, Any]) -> list[str]:
    return [section.id for section in sections(shown)]


@pytest.mark.parametrize("tiers", ["rest", "exact"])
def test_a_store_without_masks(small: Family, tmp_path: Path, tiers: str) -> None:
    taskstore.pack(small.base_path, small.paths, tmp_path / "s", families.options(tiers=tiers))
    page = write_page(taskstore.open(tmp_path / "s"), tmp_path / "r.html")
    assert page.facts["masks"] is None
    assert titles(page.facts) == ["tasks", "size", "vectors", "commands", "provenance"]
    assert "No task of this store has masks" in (tmp_path / "r.html").read_text()


def test_all_there_is(hostile: Path) -> None:
    store = taskstore.open(hostile)
    shown = facts(store, measure(store, vectors=True))
    assert titles(shown) == ["tasks", "accuracy", "size", "masks", "density", "usage", "overlap",
                             "vectors", "commands", "provenance"]  # fmt: skip
    scores = {"base": 0.25, "mask": 0.5, "fine-tune": None, "n": 1319}
    assert shown["scores"][HOSTILE]["b"] == scores
    (chart,) = next(s.charts for s in sections(shown) if s.id == "accuracy")
    assert [trace.name for trace in chart.figure.data] == ["base", "mask"], "n is no bar"
    assert '<th scope="col">n</th>' in chart.table and chart.table.count("1,319</td>") == 2
    assert "accuracy" not in titles({**shown, "scores": {}})
    assert "vectors" not in titles({**shown, "vectors": None})


def test_many_tasks_and_layers(packed: Path) -> None:
    shown = facts(taskstore.open(packed), wide(50, 200, 32))
    every = {chart.id: chart for section in sections(shown) for chart in section.charts}
    types = every["density-type"].figure
    assert len(types.data[0].y) == 200 and len(types.data) == 1, "no numbers in so many cells"
    assert 200 * 12 < types.layout.height < 200 * 20
    assert max(map(len, types.layout.xaxis.labelalias.values())) <= 24
    assert len(set(types.data[0].x)) == 50
    assert len(every["usage-share"].figure.data) == 9, "0, 1, 2, 3-4, ... 33-49, all"
    assert every["cosines"].figure.data[0].zmin < 0
    library = 2_100_000
    assert len(render(shown)) < library + 1_500_000


def test_figures_of_names_that_look_like_something_else(small: Family, tmp_path: Path) -> None:
    """Tasks 1, 2 and a date stay names; nothing is drawn at x = 1."""
    paths = dict(zip(("1", "2", "2024-05-01"), small.paths.values(), strict=True))
    taskstore.pack(small.base_path, paths, tmp_path / "s", families.options())
    store = taskstore.open(tmp_path / "s")
    for section in sections(facts(store, measure(store, vectors=True))):
        for chart in section.charts:
            assert chart.figure.layout.yaxis.type == "category"


def test_tables() -> None:
    rows = [("<x>", 1234), ("y", None), ("z", 0.12345), ("w", size(1e6))]
    html = table(("a", "b", "empty"), [(*row, None if row[0] == "y" else "") for row in rows])
    assert "empty" not in html
    assert "&lt;x&gt;" in html and "<x>" not in html
    assert [*re.findall(r'class="number">([^<]*)', html)] == ["1,234", "-", "0.123", "1.0 MB"]
