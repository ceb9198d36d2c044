"""What a task keeps of its fine-tune at the tier that is served: fidelity, and recorded scores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from taskstore.format.fidelity import Fidelity, of_task
from taskstore.format.manifest import Manifest


def fidelity(manifest: Manifest, task: str, tier: str) -> Fidelity:
    """How near a task is at the tier; one without a tier is a copy of the base, and exact."""
    known = manifest.tasks[task]
    return of_task(known, tier if tier in known.all_tiers else None)


def scores(manifest: Manifest, task: str, tier: str) -> dict[str, dict[str, float | None]]:
    """Recorded scores by the names of their evaluations, of those that scored this tier."""
    known = manifest.tasks[task]
    best, found = (known.all_tiers or (tier,))[-1], dict[str, dict[str, float | None]]()
    for name, one in (known.scores or {}).items():
        served = one.rebuilt if tier == best else (one.lower or {}).get(tier)
        if served is not None:
            found[name] = {"served": served, "original": one.original, "base": one.base}
    return found


def is_safe(manifest: Manifest, task: str, tier: str) -> bool:
    """Whether it is of a grade above the worst, exact, or scored at this tier."""
    return fidelity(manifest, task, tier).is_safe or bool(scores(manifest, task, tier))


def kept(manifest: Manifest, task: str, tier: str) -> dict[str, Any]:
    """Both as plain values; `scores` is None where none is recorded."""
    return {
        "fidelity": asdict(fidelity(manifest, task, tier)),
        "scores": scores(manifest, task, tier) or None,
    }


def words(manifest: Manifest, task: str, tier: str) -> str:
    """Both in a line."""
    told = [
        f"{name} {one['served']:.4g}"
        + (f" (original {one['original']:.4g})" if one["original"] is not None else "")
        for name, one in scores(manifest, task, tier).items()
    ]
    return f"{fidelity(manifest, task, tier).words}; {', '.join(told) or 'no score recorded'}"
