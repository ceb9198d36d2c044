"""BY_NAME: tier -> what it keeps of a task, and how a tensor is rebuilt with it.

Tiers build on each other, in the order of `manifest.TIERS`: mask, rest, exact. Each codes what is
missing between what the tiers below it rebuild (the base's weights, where there are none) and the
fine-tune. A new tier is a file here and a line in BY_NAME; its name, rules and file stem stand in
`format/manifest.py`, `validate.py` and `names.py`, which are light and import none of this.
tests/format/test_tiers.py is what each must pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskstore.format.tiers.base import Above, Bits, BlockSpec, Spot, Step, Tier
from taskstore.format.tiers.exact import Exact, along
from taskstore.format.tiers.mask import Mask
from taskstore.format.tiers.rest import Rest

__all__ = ["ABOVE", "BY_NAME", "Above", "Bits", "BlockSpec", "Spot", "Step", "Tier", "along"]

ABOVE: Mapping[str, Above] = {"rest": Rest(), "exact": Exact()}  # coded from a task's weights alone
BY_NAME: Mapping[str, Tier] = {"mask": Mask(), **ABOVE}
