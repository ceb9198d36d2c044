"""Find a module's tensors under the names that its checkpoint has.

For most modules that is its state_dict. transformers fuses some tensors when it loads them (all
experts of a layer into one parameter) and takes them apart again when it saves. What it would save
is asked of it here, but with every copy on the way left out: what comes back are views into the
live weights, so writing to a view is writing to the model. Where a conversion computes something
new there is no such view, and the tensor is refused by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from taskstore.errors import SwapError

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
    return as_saved(module, live)


def as_saved(module: nn.Module, live: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return views of a module's tensors, as a checkpoint names and cuts them.

    Raises SwapError where a name has no plain view.
    """
    library = sys.modules.get("transformers")  # a module of its own came from an import of it
    if library is None or not isinstance(module, library.PreTrainedModel):
        return live
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 nothing was fused
        return live
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
