"""One real server for all tests that talk HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.engines import need_vllm

if TYPE_CHECKING:
    from tests.serving.fronted import Server


@pytest.fixture(scope="session")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a family, and its `store`; never written to."""
    need_vllm()
    from tests.serving.fronted import make_family

    return make_family(tmp_path_factory.mktemp("fronted"))


@pytest.fixture(scope="session")
def server(fronted: Path) -> Iterator[Server]:
    """german, roman, english and noted behind one URL. A test leaves it with all of them."""
    from tests.serving.fronted import serving

    with serving(fronted, "--default-task", "english") as found:
        yield found
