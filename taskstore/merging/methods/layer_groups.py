"""Sorts a model's layers into groups by depth, so that each group can have weights of its own.

A layer is a numbered block of a stack, as `lines` reads it from names. Of L layers in a
stack, layer l is in group l G // L of G. Tensors of no layer are in no group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from taskstore.errors import OptionError
from taskstore.merging.methods.lines import layers


def layer_groups(names: Collection[str], count: int) -> Mapping[str, int]:
    """Return tensor -> number of its group; raises OptionError for a group that has no tensor."""
    found = layers(names) if count else {}
    groups = {name: layer * count // of for name, (layer, of) in found.items()}
    if empty := sorted(set(range(count)) - set(groups.values())):
        most = max((of for _, of in found.values()), default=0)
        there = f"it has {most} layers" if most else "no tensor of it is of a numbered layer"
        way = f"ask for at most {most} groups" if most else "leave the groups of layers out"
        raise OptionError(
            f"group {empty[0] + 1} of {count} groups of layers matches no tensor of the base: "
            f"{there}; {way}"
        )
    return groups
