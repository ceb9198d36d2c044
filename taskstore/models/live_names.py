"""Find a module's tensors under the names that its checkpoint has.

For most modules that is its state_dict. transformers fuses some tensors when it loads them (all
experts of a layer into one parameter) and takes them apart again when it saves. What it would save
is asked of it here, but with every copy on the way left out: what comes back are views into the
live weights, so writing to a view is writing to the model. Where a conversion computes something
new there is no such view, and the tensor is refused by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from taskstore.errors import SwapError
from taskstore.models.spelling.prefixes import unwrapped

Shape = tuple[int, ...]
_COPIES = (torch.Tensor.contiguous, torch.Tensor.clone, torch.clone)


class _NoCopies(TorchFunctionMode):
    """`contiguous` and `clone` give the tensor itself."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _COPIES:
            return args[0] if args else kwargs["input"]
        return func(*args, **(kwargs or {}))


def checkpoint_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return name in the checkpoint -> live tensor or view into one.

    Raises SwapError where a name has no plain view.
    """
    live = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue
        if is_lazy(value):
            raise SwapError(f"tensor {name!r} has no shape yet; run the module once, then attach")
        live[name] = value.detach()
    saved: dict[str, Tensor] = {}
    for path, inner in _pretrained(module):
        start = f"{path}." if path else ""
        own = {name: live.pop(name) for name in list(live) if name.startswith(start)}
        part = {name.removeprefix(start): tensor for name, tensor in own.items()}
        saved |= {start + name: tensor for name, tensor in as_saved(inner, part).items()}
    return live | saved


def _pretrained(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the outermost models of transformers inside a module (a wrapper, a larger model)."""
    library = sys.modules.get("transformers")
    found: list[tuple[str, nn.Module]] = []
    if library is None:
        return found
    for path, inner in module.named_modules():
        inside = any(not above or path.startswith(f"{above}.") for above, _ in found)
        if not inside and isinstance(inner, library.PreTrainedModel):
            found.append((path, inner))
    return found


def as_saved(module: nn.Module, live: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views of a module's tensors, as a checkpoint names and cuts them.

    Raises SwapError where a name has no plain view.
    """
    library = sys.modules.get("transformers")  # a module of its own came from an import of it
    if library is None or not isinstance(module, library.PreTrainedModel):
        return live
    from transformers.core_model_loading import revert_weight_conversion

    with torch.no_grad(), _NoCopies():
        saved: dict[str, Tensor] = revert_weight_conversion(module, live)
    if saved is not live:
        _check_views(saved, live)
    return saved


def _check_views(found: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    storages = {value.untyped_storage().data_ptr() for value in live.values()}
    for name, value in found.items():
        if value.numel() and value.untyped_storage().data_ptr() not in storages:
            raise SwapError(
                f"tensor {name!r} is computed from the module's parameters, not a view of one; "
                "it cannot be swapped in place"
            )


def stored_names(own: Mapping[str, Shape], wanted: Mapping[str, set[Shape]]) -> dict[str, str]:
    """Return the module's names that the store has otherwise, and how it has them.

    `wanted` are names in the store that the module must hold, with their shapes. The words of
    wrappers are left out, and one start is changed, where that finds all of them. Raises SwapError
    where several starts do.
    """
    if wanted.keys() <= own.keys():
        return {}
    plain = {unwrapped(name)[0]: name for name in own}
    if len(plain) < len(own):
        plain = {name: name for name in own}
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for old, new in _starts(plain, wanted):
        held = tuple(plain.get(_swapped(name, new, old), "") for name in sorted(wanted))
        if all(n and own[n] in wanted[w] for n, w in zip(held, sorted(wanted), strict=True)):
            found.setdefault(held, (old, new))
    if len(found) > 1:
        ways = " or ".join(f"prefix={{{old!r}: {new!r}}}" for old, new in sorted(found.values()))
        raise SwapError(f"the store's names fit the module in {len(found)} places: say {ways}")
    return {
        name: _swapped(short, *start)
        for start in found.values()
        for short, name in plain.items()
        if _swapped(short, *start) != name
    }


def _starts(plain: Iterable[str], wanted: Iterable[str]) -> list[tuple[str, str]]:
    """Return (start in the module, start in the store) that bring one wanted name together."""
    names = sorted(plain)
    first = next((name for name in sorted(wanted) if name not in plain), None)
    if first is None:
        return [("", "")]
    found, words = dict[tuple[str, str], None](), first.split(".")
    for name in names:
        own = name.split(".")
        same = 0
        while same < min(len(own), len(words)) and own[-1 - same] == words[-1 - same]:
            same += 1
        if same >= min(2, len(words)):
            start = ["".join(f"{w}." for w in part[: len(part) - same]) for part in (own, words)]
            found[start[0], start[1]] = None
    return list(found)


def _swapped(name: str, old: str, new: str) -> str:
    return new + name[len(old) :] if name.startswith(old) else name
