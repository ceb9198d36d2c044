"""What tests share: families, stores, oracles, and where things lie."""

from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def needs_transformers_5() -> None:
    """Skip before it: it fuses experts, checks the types of a config, and renames heads."""
    if int(version("transformers").partition(".")[0]) < 5:
        pytest.skip("transformers before 5 fuses no experts and checks no types of a config")
