"""The system's Chromium without a window, and its screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE = 120_000  # ms


@contextmanager
def chromium() -> Iterator[Any]:
    """Skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium; apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=ARGUMENTS, timeout=PATIENCE)
        yield opened
        opened.close()


def shoot(page: Any, name: str, tmp_path: Path) -> None:
    """A screenshot of a whole page, into $TASKSTORE_SCREENSHOTS where that is set."""
    folder = Path(os.environ.get("TASKSTORE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    assert (folder / f"{name}.png").stat().st_size > 20_000
