"""What `pack` reports when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskstore.format.dtypes import MASKED
from taskstore.format.manifest import Manifest
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.models.config import quantisation
from taskstore.models.family import Family
from taskstore.models.readers.lora import LoraReader
from taskstore.store import summary
from taskstore.store.summary import Summary


@dataclass(frozen=True)
class PackReport:
    """The new store, its figures, and what its owner should know before deleting anything.

    notes   what was chosen, beyond the tables
    others  tiers that could be asked for -> about the bytes of rests, over those here
    """

    path: PathLike
    summary: Summary
    warnings: list[str]
    notes: list[str] = field(default_factory=list)
    others: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: PathLike, manifest: Manifest, manifest_bytes: int, family: Family
    ) -> PackReport:
        figures = summary.of(manifest, manifest_bytes)
        where = path if mirror.address_of(path) else Path(path)
        return cls(where, figures, _warnings(figures, family))

    @property
    def advice(self) -> str:
        """What to do for more of the fine-tunes; "" where every bit is kept."""
        found = {task.fidelity.grade for task in self.summary.tasks}
        if all(task.fidelity.kind == "exact" for task in self.summary.tasks):
            return ""
        best = found <= {"A", None}
        masks = all(tier.name == "mask" for tier in self.summary.tiers)
        bits = {tiers: self._bits(share) for tiers, share in self.others.items()}
        at_best = _AT_BEST.format(nearer=bits.get(NEARER, ""), fewer=bits.get(FEWER, ""))
        more = at_best if best else _MORE_THAN_MASKS if masks else _MORE_THAN_REST
        return f"{more}; {_UNTIL_THEN}"

    def _bits(self, share: float) -> str:
        """Say what rests with `share` times the bytes would take."""
        rests = [t.bits_per_parameter for t in self.summary.tasks if t.tiers == ["rest"]]
        return f" (about {share * sum(rests) / max(1, len(rests)):.1f} bits/parameter)"

    def to_dict(self) -> dict[str, Any]:
        about = {"store": str(self.path), "warnings": self.warnings, "notes": self.notes}
        about["advice"] = self.advice
        return {**about, **self.summary.to_dict()}


NEARER, FEWER = "auto:0.02", "auto:B"
_AT_BEST = (
    f'for more: tiers="{NEARER}" comes nearer{{nearer}}, exact keeps every bit (about half of 16, '
    f'two thirds of 32); for fewer bytes: tiers="{FEWER}"{{fewer}}, whose fine-tunes kept 97 % of '
    "their scores and more"
)
_MORE_THAN_MASKS = (
    'for more: tiers="auto" keeps more of each fine-tune than these masks, often in fewer bits; '
    "exact keeps every bit"
)
_MORE_THAN_REST = 'for more: tiers="auto" takes the bits that grade A needs; exact keeps every bit'
_UNTIL_THEN = (
    "an approximate task is not its fine-tune: keep the originals until you have measured it "
    "(taskstore eval)"
)


def _warnings(figures: Summary, family: Family) -> list[str]:
    found = []
    if not figures.is_smaller:
        way_out = _smaller(figures, family)
        found.append(
            f"the store is not smaller than its originals ({figures.ratio:.2f}x): {way_out}"
        )
    elif figures.ratio_without_base <= 1:
        taken = figures.store_bytes - figures.base_bytes
        came = sum(task.original_bytes for task in figures.tasks)
        found.append(
            f"without the base the store takes {taken:,} bytes, what came in {came:,}: "
            f"{_smaller(figures, family)}"
        )
    for model in (family.base, *family.tasks):
        shapes = [info for info in model.tensors.values() if len(info.shape) > 1]
        how, plain = quantisation(model), all(info.dtype in MASKED for info in shapes)
        if how and plain:
            found.append(
                f"{model.name}: its config has a quantization_config ({how}) and its weights are "
                "not quantised; loaders go wrong: remove it from config.json"
            )
        elif how and model is family.base:
            found.append(
                f"{model.name} is quantised ({how}): its quantised weights are kept bit for bit; "
                "masks and rests need them in 16 or 32 bits"
            )
    found += [f"{task.name}: names: {task.spelling}" for task in family.tasks if task.spelling]
    found += [f"{task.name}: {note}" for task in family.tasks for note in task.notes]
    for model in (family.base, *family.tasks):
        if model.skipped:
            found.append(f"{model.name}: not carried: {', '.join(model.skipped)}")
    for task in figures.tasks:
        if task.absent:
            some = ", ".join(task.absent[:3]) + (" ..." if len(task.absent) > 3 else "")
            found.append(f"{task.name}: has no {some}; {len(task.absent)} of the base's tensors")
    return found


def _smaller(figures: Summary, family: Family) -> str:
    """Say why a store is larger than what came in, and what to do."""
    adapters = [task.name for task in family.tasks if isinstance(task.reader, LoraReader)]
    if adapters:
        named = ", ".join(adapters[:3]) + (" ..." if len(adapters) > 3 else "")
        return (
            f"{named} came as LoRA adapters, which are smaller than any tier; keep the adapters, "
            "unless whole models are to be swapped or served from the store"
        )
    if figures.multitask_bytes:
        return (
            f"the multi-task model costs as much as a fine-tune, and {len(family.tasks)} of them "
            'do not pay for it; masks save from about three full fine-tunes on, tiers="rest" from '
            "one"
        )
    return 'tiers="rest" takes the least; where that is not less either, keep the originals'
