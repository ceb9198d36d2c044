"""Options travel as plain values and come back the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from taskstore_serving.options import ServeOptions

from taskstore.errors import InputError


def test_they_survive_json() -> None:
    options = ServeOptions("store", ("b", "a", "b"), "base", "device", 1, 0.25, "a")
    assert options.tasks == ("b", "a")
    assert ServeOptions.parse(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no store to serve"),
        ({"store": "s", "taks": []}, "no serving option 'taks'"),
        ({"store": "s", "tasks": "one"}, "a list of names"),
        ({"store": "s", "masks": "disk"}, "neither 'host' nor 'device'"),
        ({"store": "s", "residual": 2}, "neither 0 nor 1"),
        ({"store": "s", "batching": "all"}, "neither 'swap', 'mixed' nor 'auto'"),
        ({"store": "s", "policy": "fair"}, "not 'latency', 'throughput' or 'auto'"),
        ({"store": "s", "quantum": -1.0}, "no time in seconds"),
        ({"store": "s", "quantum": float("nan")}, "no time in seconds"),
    ],
)
def test_nonsense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServeOptions.parse(given)
