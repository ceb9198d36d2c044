"""The report in a browser: every chart is drawn, nothing is fetched, phone, dark and paper work.

Screenshots go to $TASKSTORE_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import taskstore
from taskstore.analysis.page import write_page
from taskstore.format.manifest import Score
from taskstore.packing import revise
from tests.support import families
from tests.support.browsers import PATIENCE, chromium, shoot
from tests.support.families import Family

pytestmark = pytest.mark.slow

MARKS = ".barlayer .point path, .heatmaplayer image, .scatterlayer .point"
DESKTOP, PHONE = (1280, 900), (390, 844)
HOSTILE = "a<b&\"c'<img src=x onerror=alert(1)>"
SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    **{
        f"model.layers.{layer}.{part}.weight": shape
        for layer in range(3)
        for part, shape in {
            "self_attn.q_proj": (16, 16),
            "mlp.down_proj": (16, 33),
            "input_layernorm": (16,),
        }.items()
    },
    "lm_head.weight": (40, 16),
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section, on a store with a name that would be markup."""
    root = tmp_path_factory.mktemp("report")
    base = families.random_state(0, shapes=SHAPES)
    made = Family(root, base, {f"task-{i}": families.tuned(base, i) for i in range(5)})
    paths = {HOSTILE if name == "task-0" else name: path for name, path in made.paths.items()}
    options = families.options(tiers="mask,rest", lam=2.0)
    store = taskstore.pack(made.base_path, paths, root / "store", options).path
    score = Score(rebuilt=0.9, base=0.1, original=0.95, lower={"mask": 0.7})
    revise.record(taskstore.open(store), "exact match", dict.fromkeys(paths, score))
    return write_page(taskstore.open(store), root / "report.html").path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@dataclass
class Seen:
    """A page, and what it has asked for and complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert [
            url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))
        ] == []
        assert len([url for url in self.requests if url.startswith("file:")]) == 1
        assert self.complaints == []

    def overflow(self) -> int:
        """Pixels that the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def marks(self) -> dict[str, int]:
        """Bars, cells, dots of each chart that is shown."""
        return dict(
            self.page.evaluate(
                """(marks) => Object.fromEntries([...document.querySelectorAll("[role=img]")]
                    .filter((plot) => plot.checkVisibility())
                    .map((plot) => [plot.id, plot.querySelectorAll(marks).length]))""",
                MARKS,
            )
        )


@pytest.fixture
def open_page(browser: Any, page: Path) -> Iterator[Any]:
    contexts = []

    def opened(size: tuple[int, int], scheme: Literal["light", "dark"]) -> Seen:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )  # each has a profile of its own
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        seen = Seen(context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on(
            "console",
            lambda said: (
                seen.complaints.append(said.text) if said.type in ("error", "warning") else None
            ),
        )
        seen.page.goto(page.as_uri())
        seen.page.wait_for_selector("html[data-ready=true]")
        return seen

    yield opened
    for context in contexts:
        context.close()


def brightness(color: str) -> float:
    """0 to 1, of "rgb(r, g, b)"."""
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 765


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_chart_is_drawn(
    open_page: Any, size: tuple[int, int], scheme: Literal["light", "dark"], tmp_path: Path
) -> None:
    seen = open_page(size, scheme)
    shown = seen.marks()
    assert shown.keys() >= {"sizes", "densities", "density-type", "usage-share",
                            "jaccard", "contained", "norms", "cosines", "scores-0"}  # fmt: skip
    assert all(shown.values()), shown
    assert shown["norms"] == 5 and shown["scores-0"] == 5 * 4
    assert seen.overflow() <= 0
    for plot in seen.page.query_selector_all(".plot"):
        box = plot.bounding_box()
        assert box is None or box["x"] + box["width"] <= size[0]
    text, paper = (
        seen.page.evaluate(f"getComputedStyle({element}).{what}")
        for element, what in (
            ("document.querySelector('#norms .ytick text')", "fill"),
            ("document.body", "backgroundColor"),
        )
    )
    assert (brightness(paper) < 0.2) == (scheme == "dark")
    assert abs(brightness(paper) - brightness(text)) > 0.6, "text of charts can be read"
    hints = seen.page.eval_on_selector_all(
        ".scroll, .plot",
        """all => all.filter((box) => box.checkVisibility()).map((box) => [
            box.scrollWidth > box.clientWidth + 1,
            getComputedStyle(box, "::before").content.includes("more to the side")])""",
    )
    assert all(there == wanted for wanted, there in hints)
    assert any(wanted for wanted, _ in hints) and not all(wanted for wanted, _ in hints)
    shoot(seen.page, f"{'phone' if size == PHONE else 'desktop'}-{scheme}", tmp_path)
    seen.check()


def test_tabs_and_sections(open_page: Any) -> None:
    seen = open_page(PHONE, "light")
    browser_page = seen.page
    for tab in browser_page.query_selector_all("[role=tab]"):
        tab.click()
        assert tab.get_attribute("aria-selected") == "true"
        chart = (tab.get_attribute("id") or "").removeprefix("tab-")
        browser_page.wait_for_selector(f"#{chart} .main-svg")
        assert seen.marks()[chart] > 0
        assert seen.overflow() <= 0
    browser_page.focus("#tab-usage-weights")
    browser_page.keyboard.press("ArrowLeft")
    assert browser_page.get_attribute("#tab-usage-share", "aria-selected") == "true"
    assert browser_page.get_attribute("#panel-usage-weights", "hidden") is not None
    for section in browser_page.query_selector_all(".section"):
        section.query_selector("summary").click()
        assert section.get_attribute("open") is None
    assert seen.marks() == {}
    browser_page.click("nav a[href='#overlap']")
    assert browser_page.get_attribute("#overlap", "open") is not None
    assert set(seen.marks()) == {"jaccard", "contained"}
    table = browser_page.query_selector("#overlap details.table")
    assert table is not None
    table.query_selector("summary").click()
    assert len(table.query_selector_all("tbody tr")) == 5
    assert HOSTILE in table.inner_text()
    assert seen.overflow() <= 0
    seen.check()


def test_names_are_shown_as_they_are(open_page: Any) -> None:
    seen = open_page(DESKTOP, "light")
    ticks = seen.page.eval_on_selector_all(
        "#norms .ytick text", "all => all.map(t => t.textContent)"
    )
    assert "a<b&\"c'<img" in "".join(ticks)
    assert seen.page.query_selector("img") is None
    seen.check()


def test_it_follows_the_night(open_page: Any) -> None:
    """A page that is open when the system turns dark turns dark as well, its charts too."""
    seen = open_page(DESKTOP, "light")

    def fill() -> str:
        return str(
            seen.page.evaluate(
                "getComputedStyle(document.querySelector('#norms .point path')).fill"
            )
        )

    day = fill()
    seen.page.emulate_media(color_scheme="dark")
    seen.page.wait_for_function(
        "day => getComputedStyle(document.querySelector('#norms .point path')).fill !== day",
        arg=day,
    )
    assert brightness(fill()) > brightness(day)
    seen.check()


def test_turned_to_the_side(open_page: Any) -> None:
    seen = open_page(PHONE, "light")
    seen.page.set_viewport_size({"width": 844, "height": 390})
    seen.page.wait_for_function(
        "() => document.querySelector('#norms .main-svg').getBoundingClientRect().width > 600"
    )
    assert seen.overflow() <= 0
    seen.check()


def test_paper(open_page: Any, tmp_path: Path) -> None:
    """White, everything open, no chart wider than the sheet; from a dark page with closed parts."""
    seen = open_page(DESKTOP, "dark")
    seen.page.click("#overlap > summary")
    pdf = tmp_path / "report.pdf"
    seen.page.pdf(path=pdf, format="A4")
    assert pdf.read_bytes().startswith(b"%PDF-") and pdf.stat().st_size > 20_000
    seen.page.set_viewport_size({"width": 690, "height": 1000})
    seen.page.emulate_media(media="print")
    seen.page.wait_for_function("() => document.querySelector('#usage-weights .main-svg')")
    seen.page.wait_for_function("() => document.querySelector('#jaccard').checkVisibility()")
    marks = seen.marks()
    assert len(marks) == 11 and all(marks.values()), marks
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    widths = seen.page.eval_on_selector_all(
        ".main-svg", "all => all.map(s => s.getBoundingClientRect().right)"
    )
    assert max(widths) <= 690
    seen.check()


def test_without_scripts_the_tables_are_there(browser: Any, page: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page.as_uri())
    assert plain.is_visible(".notice")
    plain.click("#vectors details.table summary")
    assert plain.is_visible("#vectors details.table tbody")
    context.close()
