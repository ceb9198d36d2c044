"""Ways to merge that are no formula: they try models with the user's own evaluator.

`taskstore.merging` carries them out; here they describe themselves beside the methods.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.merging.methods.api import Info

PROCEDURES: Mapping[str, Info] = {
    "greedy_soup": Info(
        "Greedy soup",
        "the average of the best fine-tune and, best first, each that makes the score better",
        "Wortsman et al., arXiv 2203.05482",
        packs=False,
        weights=False,
    ),
}


def procedure(name: str) -> str:
    """The procedure that is meant, "" where it is none."""
    plain = name.strip().lower().replace("-", "_")
    return plain if plain in PROCEDURES else ""
