"""One real server for all tests that talk HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.support.engines import need_vllm

if TYPE_CHECKING:
    from tests.serving.support.fronted import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engines share one process and one server, where tests are spread over several."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("engines"))


@pytest.fixture(scope="session")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a family, and its `store`; never written to."""
    need_vllm()
    from tests.serving.support.fronted import make_family

    return make_family(tmp_path_factory.mktemp("fronted"))


@pytest.fixture(scope="session")
def server(fronted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four tasks behind one URL, english for those who name none. A test leaves it with all.

    It has a store of its own, and follows what changes there.
    """
    from tests.serving.support.fronted import TASKS, serving

    root = tmp_path_factory.mktemp("served")
    shutil.copytree(fronted / "store", root / "store")
    chosen = ("--default-task", "english", "--tasks", ",".join(TASKS), "--watch")
    with serving(root, *chosen) as found:
        yield found


@pytest.fixture(scope="session")
def wanted(fronted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What transformers says with each unpacked folder: its template, weights and ends."""
    import taskstore
    from tests.serving.support.fronted import TASKS, answers

    found: dict[str, dict[str, str]] = {}
    for task in (None, *TASKS):
        folder = tmp_path_factory.mktemp("unpacked") / "model"
        taskstore.open(fronted / "store").unpack(task, folder)
        found[task or "base"] = answers(folder)
    return found
