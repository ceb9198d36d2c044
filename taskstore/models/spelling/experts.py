"""Match experts that are one tensor in one model and one tensor each in the other.

Legend: E experts, I inner and H hidden size. Single: `experts.7.gate_proj.weight` (I, H). Fused:
`experts.gate_up_proj` (E, 2 I, H), in which each expert's parts follow each other. So one is the
other cut in pieces that lie one after the other; nothing is computed. Fused tensors that lie
otherwise, as (E, H, 2 I), have no such pieces and do not match.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from taskstore.format.manifest import SavedAs
from taskstore.models.checkpoint import TensorInfo

PARTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
    "gate_proj": (("gate_proj",), ("w1",)),
    "up_proj": (("up_proj",), ("w3",)),
}
PATHS = (("", ""), ("block_sparse_moe.", "mlp."), ("mlp.", "block_sparse_moe."))
_FUSED = re.compile(rf"(?P<path>(.*\.)?experts\.)(?P<name>{'|'.join(PARTS)})(\.weight)?$")


def pieces_of(name: str, info: TensorInfo, single: Mapping[str, TensorInfo]) -> list[str] | None:
    """Return the single experts that a fused tensor is made of, in their order; None: of none."""
    found = _FUSED.match(name)
    if not found or len(info.shape) != 3:
        return None
    for old, new in PATHS:
        path = found["path"].replace(old, new, 1) if old else found["path"]
        for parts in PARTS[found["name"]]:
            names = [f"{path}{e}.{part}.weight" for e in range(info.shape[0]) for part in parts]
            if names and all(one in single for one in names) and _fit(names, info, single):
                return names
    return None


def _fit(names: Collection[str], info: TensorInfo, single: Mapping[str, TensorInfo]) -> bool:
    infos = [single[name] for name in names]
    rows = info.shape[0] * info.shape[1]
    return (
        {one.dtype for one in infos} == {infos[0].dtype}
        and all(one.shape[1:] == info.shape[2:] for one in infos)
        and sum(one.shape[0] for one in infos) == rows
    )


def by_experts(
    base: Mapping[str, TensorInfo], own: Mapping[str, TensorInfo]
) -> tuple[dict[str, SavedAs], dict[str, TensorInfo], str]:
    """Match experts: own tensor -> how it is made of the base's; the tensors; what was done."""
    saved, infos, words = dict[str, SavedAs](), dict[str, TensorInfo](), ""
    for name, info in own.items():
        singles = pieces_of(name, info, base)
        if singles is not None:
            saved[name] = SavedAs(of=singles, shape=list(info.shape))
            infos |= {one: TensorInfo(info.dtype, base[one].shape) for one in singles}
            words = "fused experts taken one by one"
    for name, info in base.items():
        singles = pieces_of(name, info, own)
        if singles is not None:
            at = 0
            for one in singles:
                saved[one] = SavedAs(of=[name], start=at, shape=list(own[one].shape))
                at += own[one].numel
            infos[name] = TensorInfo(own[singles[0]].dtype, info.shape)
            words = "single experts read as the base's fused ones"
    return saved, infos, words
