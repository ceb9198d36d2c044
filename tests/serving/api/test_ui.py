"""The page at /ui: what it may load, and what people see and do in headless Chromium.

Screenshots go to $TASKSTORE_SCREENSHOTS where that is set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.serving.support.engines import need_vllm
from tests.support import ROOT
from tests.support.browsers import PATIENCE, chromium, shoot

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

DESKTOP, PHONE = (1280, 900), (390, 844)
COUNT = 100
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    need_vllm()
    from tests.serving.support.paged import make_store, served

    with served(make_store(tmp_path_factory.mktemp("many"), COUNT)) as found:
        yield found


@pytest.fixture(scope="module")
def keyless(packed: Path) -> Iterator[Any]:
    need_vllm()
    from tests.serving.support.paged import served

    with served(packed, key=None) as found:
        yield found


@pytest.fixture(scope="module")
def browser(played: Any, keyless: Any) -> Iterator[Any]:
    """Later than servers: none can start in a thread that playwright has its loop in."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: Any, played: Any) -> Iterator[Any]:
    """Opens the page; what it complains about, and asks of others, fails the test."""
    contexts, complaints, urls = [], list[str](), list[str]()

    def opened(
        size: tuple[int, int] = DESKTOP, scheme: Scheme = "light", key: str = "the key", **how: Any
    ) -> Any:
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **how
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: urls.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda said: complaints.append(said.text) if bad(said) else None)
        page.goto(f"{played.url}/ui")
        page.wait_for_selector("html[data-ready=true]")
        if key:
            page.fill("#key", key)
            page.keyboard.press("Enter")
            page.wait_for_selector("#rows tr")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in urls if not url.startswith(played.url)] == []
    assert complaints == []


def bad(said: Any) -> bool:
    refused = re.search(r"a status of 40[19]", said.text)  # which the page tells in its own words
    return said.type in ("error", "warning") and not refused


def row(page: Any, name: str) -> Any:
    exactly = re.compile(f"^{re.escape(name)}$")
    return page.locator("#rows tr").filter(has=page.locator(".name", has_text=exactly))


def until(page: Any, seen: Callable[[], bool]) -> None:
    """Look again and again; the page's policy forbids what playwright would run inside of it."""
    for _ in range(PATIENCE // 50):
        if seen():
            return
        page.wait_for_timeout(50)
    raise AssertionError(page.inner_text("body"))


def test_files_are_open_and_allow_no_inline_code(played: Any) -> None:
    import httpx

    with httpx.Client(base_url=played.url) as http:
        first = http.get("/ui")
        names = re.findall(r'"ui/([\w.]+)"', first.text)
        modules = ["dom.js", "client.js", "tasks.js", "activity.js", "playground.js"]
        for name in ("", *names, *modules):
            found = http.get(f"/ui/{name}" if name else "/ui")
            policy = found.headers["content-security-policy"]
            assert found.status_code == 200
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert found.headers["x-content-type-options"] == "nosniff"
            assert "innerHTML" not in found.text and "<style" not in found.text
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=", first.text)
        for name in ("ui.py", "..%2fui.py", "nothing.js"):
            assert http.get(f"/ui/{name}").status_code == 404
        assert http.get("/v1/taskstore").status_code == 401
        assert http.get("/v1/taskstore/activity?after=x", headers=bearer()).status_code == 400


def bearer() -> dict[str, str]:
    return {"Authorization": "Bearer the key"}


def test_the_key_opens_the_page_and_stays_in_the_tab(visit: Any) -> None:
    page = visit(key="")
    assert page.is_visible("#locked") and not page.is_visible("#open")
    assert page.evaluate("document.activeElement.id") == "key"
    page.fill("#key", "another")
    page.keyboard.press("Enter")
    page.wait_for_selector("#wrong:not(:empty)")
    assert page.is_visible("#locked")
    page.fill("#key", "the key")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rows tr")
    page.reload()
    page.wait_for_selector("#rows tr")
    stored = "Object.values(sessionStorage).join() + '/' + Object.keys(localStorage).join()"
    assert page.evaluate(stored) == "the key/"
    assert page.evaluate("document.cookie") == ""
    page.click("#forget")
    page.wait_for_selector("#locked:not([hidden])")
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_hundred_tasks_with_hostile_names_and_answers(
    visit: Any, played: Any, size: tuple[int, int], scheme: Scheme, tmp_path: Path
) -> None:
    from tests.serving.support.paged import HOSTILE, LONG, MARKUP

    played.pieces |= {HOSTILE: [MARKUP], LONG: ["long " * 900, "\n" * 9, "w" * 900]}
    page = visit(size, scheme)
    page.locator("#rows tr").nth(COUNT).wait_for(state="attached")
    for name in (HOSTILE, LONG):
        box = row(page, name).locator("input")
        if not box.is_checked():
            box.check()
    page.fill("#prompt", MARKUP)
    page.press("#prompt", "Control+Enter")
    answers = page.locator(".answer")
    until(page, lambda: answers.filter(has_text="first after").count() >= 3)
    assert answers.first.locator(".output").inner_text() == "hello base"  # the base stands first
    assert MARKUP in answers.filter(has_text="<img").first.inner_text()
    assert page.locator("img").count() == 0 and page.locator("b").count() == 0
    swaps = [(None, HOSTILE), (HOSTILE, LONG), (LONG, None), (None, HOSTILE)]
    for swap in swaps:
        played.swap(*swap)
    page.locator("#feed .swap").first.wait_for()
    page.locator("#feed .finished").first.wait_for()
    assert HOSTILE in page.locator("#feed").inner_text()
    page.wait_for_selector("tr.is-live")
    page.wait_for_timeout(300)  # the next frame of the timeline
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    assert page.evaluate("document.documentElement.scrollHeight") < 3200  # a hundred rows scroll
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 150) == (scheme == "dark")
    shoot(page, f"ui-{'phone' if size == PHONE else 'desktop'}-{scheme}", tmp_path)


def test_answers_stream_side_by_side_and_can_be_stopped(visit: Any, played: Any) -> None:
    page = visit()
    played.asked.clear()
    played.pieces |= {"base": ["one ", "two"] * 400, "task-0": ["one ", "two"]}
    played.pause = 0.05
    row(page, "task-0").locator("input").check()
    page.fill("#temperature", "0.5")
    page.fill("#system", "be brief")
    page.fill("#prompt", "say something")
    page.press("#prompt", "Control+Enter")
    until(page, lambda: len(page.locator(".answer.base .output").inner_text()) > 40)
    assert page.locator(".answer.base h3").inner_text().endswith("writes")
    page.click("#stop")
    page.wait_for_selector(".answer.base h3:has-text('stopped')")
    played.pause = 0.0
    models = [body["model"] for body in played.asked]
    assert {"base", "task-0"} < {*models} and len(models) == len({*models})
    asked = next(body for body in played.asked if body["model"] == "task-0")
    assert (asked["temperature"], asked["stream"]) == (0.5, True)
    assert [one["role"] for one in asked["messages"]] == ["system", "user"]
    answer = page.locator(".answer").filter(has_text="task-0")
    assert answer.locator(".output").inner_text() == "one two"
    assert "2 tokens, first after" in answer.inner_text()


def test_tasks_are_added_proved_and_removed(visit: Any, played: Any) -> None:
    page, name = visit(), f"task-{COUNT - 3}"  # which is in the store, and not served
    page.keyboard.press("/")
    page.keyboard.type(name)
    assert page.locator("#rows tr:visible").count() == 1
    mine = row(page, name)
    assert mine.locator("input").is_disabled()
    mine.get_by_role("button", name=f"Add {name}").click()
    mine.get_by_role("button", name="Remove").wait_for()
    assert name in played.engine.tasks
    played.engine.refusals["taskstore_verify"] = "1 of 9 tensors are not those of it"
    mine.get_by_role("button", name="Verify").click()
    page.wait_for_selector(".badge.failed:has-text('1 of 9 tensors')")
    page.wait_for_selector("#tiles .bad:has-text('not proved')")
    played.engine.refusals.clear()
    page.click("#verify-all")
    page.wait_for_selector("#tiles div:has-text('bit for bit')")
    mine.get_by_role("button", name="Remove").click()
    page.keyboard.press("Escape")  # not this time
    assert name in played.engine.tasks
    mine.get_by_role("button", name="Remove").click()
    page.click("#sure-yes")
    mine.get_by_role("button", name="Add").wait_for()
    assert name not in played.engine.tasks


def test_without_a_key_the_page_is_open_and_changes_nothing(browser: Any, keyless: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{keyless.url}/ui")
    page.wait_for_selector("#rows tr")
    assert page.is_visible("#frozen")
    assert page.locator(".change button:enabled").count() == 0
    page.context.close()


def test_the_page_is_part_of_the_package() -> None:
    from importlib.resources import files

    names = {part.name for part in (files("taskstore_serving") / "page").iterdir()}
    assert {"index.html", "page.css", "main.js", "icon.svg"} <= names
    if (ROOT / "serving").is_dir():
        long = [p.name for p in (ROOT / "serving/taskstore_serving/page").iterdir()
                if len(p.read_text().splitlines()) > 300]  # fmt: skip
        assert long == []
