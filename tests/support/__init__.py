"""What tests share: families, stores, oracles, and where things lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
