"""Check that models were fine-tuned from the base, by the cosine of some of their weights.

Models trained from different starts have nothing in common weight by weight, and merging them makes
noise: WARM (arXiv 2401.12187) and all task vectors need one initialisation. The cosine between the
weights of a fine-tune and those of its base is near 1, even after heavy training. Between unrelated
models it is near 0.
"""

from __future__ import annotations

from taskstore.errors import NotOneFamily
from taskstore.models.family import Family
from taskstore.models.likeness import LEAST
from taskstore.models.likeness import cosine as likeness


def check(family: Family) -> None:
    """Raise NotOneFamily for a model whose cosine with the base is below `LEAST`."""
    for t, task in enumerate(family.tasks):
        found = cosine(family, t)
        if found < LEAST:
            raise NotOneFamily(
                task.name,
                family.base.name,
                [f"the cosine between their weights is {found:.2f}, so they share no start"],
            )


def cosine(family: Family, t: int) -> float:
    """The cosine of a task's weights and the base's, over a sample; 1 if they share no matrix."""
    base, task = family.base, family.tasks[t]
    theirs = {name: info.shape for name, info in task.tensors.items()}
    names = [n for n, info in sorted(base.tensors.items()) if theirs.get(n) == info.shape]
    found = likeness(base, task, [(name, name) for name in names])
    return 1.0 if found is None else found
