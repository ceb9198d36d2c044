"""The page at /ui over a real engine: a prompt for three models, and the swaps that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.api.test_ui import until
from tests.support.browsers import PATIENCE, chromium, shoot

if TYPE_CHECKING:
    from tests.serving.support.fronted import Server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def test_models_answer_side_by_side_and_their_swaps_are_seen(
    server: Server, wanted: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    from tests.serving.support.fronted import KEY, TASKS

    complaints = list[str]()
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: complaints.append(said.text))
        page.goto(f"{server.url}/ui")
        page.wait_for_selector("#locked:not([hidden])")  # vLLM's own guard asks for the key
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#rows tr")
        assert page.locator("#rows tr").count() == 1 + len(TASKS) + 1  # bent is not served
        for task in TASKS:  # two are chosen already, by an order that other tests change
            page.get_by_label(f"Ask {task} in").uncheck()
        for task in ("english", "german"):
            page.get_by_label(f"Ask {task} in").check()
        page.fill("#prompt", "417")
        page.press("#prompt", "Control+Enter")
        answers = page.locator(".answer")
        until(page, lambda: answers.filter(has_text="first after").count() == 3)
        said = [box.inner_text() for box in page.locator(".output").all()]
        assert said == [wanted[model]["417"] for model in ("base", "english", "german")]
        page.locator("#feed .swap").first.wait_for()
        page.locator("#feed .finished").nth(2).wait_for()
        page.get_by_role("button", name="Verify german").click()
        page.locator("tr").filter(has_text="german").locator(".proved").wait_for()
        page.get_by_role("button", name="Add bent").click()  # its config computes something else
        page.locator("#said .bad").filter(has_text="rope_theta").wait_for()
        shoot(page, "ui-real", tmp_path)
    assert all("401" in text or "400" in text for text in complaints)
