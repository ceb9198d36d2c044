"""Tells by a tensor's name where in a model it stands.

`model.layers.12.self_attn.q_proj.weight` is in layer 12, of type `self_attn.q_proj` and of kind
`attention q`. The layer is the first number of a name. What stands before it is dropped, unless a
model has several stacks of layers (`encoder.block`, `decoder.block`). Further numbers (experts)
become a star. A weight and its bias are of one type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_KINDS = (  # the first that is found in a type, in this order
    ("head", r"(^|\.)(lm_head|head|heads|classifier|score|embed_out|pre_logits)(\.|$)"),
    ("norm", r"norm|(^|[._])(ln|bn)(_|\d|\.|$)"),
    ("embeddings", r"embed|(^|[._])(wte|wpe|cls_token|shared)$"),
    ("attention qkv", r"(^|[._])(qkv|kv|c_attn|query_key_value|in_proj)([._]|$)"),
    ("attention q", r"(^|[._])(q|query)(_a|_b|_proj|_lin)?(_proj)?$"),
    ("attention k", r"(^|[._])(k|key)(_proj|_lin)?$"),
    ("attention v", r"(^|[._])(v|value)(_proj|_lin)?$"),
    ("attention o", r"(^|[._])(o|o_proj|o_lin|out_proj|out_lin)$|att.*[._](out|dense|proj)"),
    ("mlp", r"mlp|ffn|feed_forward|densere|intermediate|expert|moe|(^|[._])(fc|lin|w|wi|wo)_?\d?"
            r"(_\d)?$|(gate|up|down)_proj$|(^|[._])(output\.)?dense$"),
)  # fmt: skip
KINDS = (
    "attention q", "attention k", "attention v", "attention qkv", "attention o", "mlp", "norm",
    "embeddings", "head", "other",
)  # fmt: skip
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _KINDS)


@dataclass(frozen=True)
class Place:
    """`layer` is None outside the stack of layers."""

    layer: int | None
    type: str
    kind: str


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor of one model."""
    cut = {name: _cut(name) for name in names}
    stacks = {before for before, layer, rest in cut.values() if layer is not None and rest}
    return {name: _place(*parts, len(stacks) > 1) for name, parts in cut.items()}


def _cut(name: str) -> tuple[str, int | None, str]:
    """What stands before the first number, that number, and what follows it."""
    parts = name.split(".")
    if parts[-1] in ("weight", "bias") and len(parts) > 1:
        parts.pop()
    for i, part in enumerate(parts):
        if part.isascii() and part.isdecimal():
            return ".".join(parts[:i]), int(part[:9]), ".".join(parts[i + 1 :])
    return ".".join(parts), None, ""


def _place(before: str, layer: int | None, rest: str, several: bool) -> Place:
    rest = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", rest)
    if layer is None:
        type = before
    elif rest and not several:
        type = rest
    else:
        type = ".".join(part for part in (before, "*", rest) if part)
    return Place(layer, type, kind_of(type))


def kind_of(type: str) -> str:
    """One of KINDS."""
    lower = type.lower()
    return next((kind for kind, pattern in _PATTERNS if pattern.search(lower)), "other")
