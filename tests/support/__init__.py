"""What tests share: families, stores, oracles, and where things lie."""

from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def needs_transformers_5() -> None:
    """Skip before it: it fuses experts, checks the types of a config, renames heads, and loads a
    head of T5 beside a tied embedding."""
    if int(version("transformers").partition(".")[0]) < 5:
        pytest.skip(
            "transformers before 5: no fused experts, no checked config, no head beside a tie"
        )
