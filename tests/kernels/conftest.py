"""Each test of a kernel runs with the loops of every level that the processor has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskstore.native import levels
from tests.support.native import at_level


@pytest.fixture(autouse=True, scope="module", params=levels.available())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with at_level(request.param):
        yield request.param
