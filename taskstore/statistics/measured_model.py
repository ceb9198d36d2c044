"""Loads the model that is measured, in float32, and names its tensors as its file does.

Transformers fuses some tensors when it loads them (the experts of a layer). Views take them apart
again, as for saving. Each tensor is then compared with the checkpoint's, so that no statistic gets
the name of another weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from taskstore import devices, extras
from taskstore.errors import CheckpointError, InputError, SwapError
from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.locations.remote.elsewhere import cached_whole
from taskstore.models import Checkpoint, open_checkpoint
from taskstore.models.live import model_class, one_line
from taskstore.models.live_names import as_saved
from taskstore.models.readers import lora
from taskstore.models.untrusted_config import offline

BLOCK = 1 << 20
Kind = Literal["causal", "text", "image"]
Sums = Mapping[nn.Parameter, Tensor]


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode on its device."""

    label: str
    folder: Path
    checkpoint: Checkpoint
    module: Any
    config: Any
    kind: Kind
    names: Mapping[str, str]  # name in the file -> name that transformers would save it under

    @property
    def device(self) -> torch.device:
        return next(iter(self.module.parameters())).device  # type: ignore[no-any-return]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The float ones, each once."""
        return [p for p in self.module.parameters() if p.is_floating_point()]

    def by_name(self, sums: Sums) -> dict[str, Tensor]:
        """One tensor per parameter -> the same, or views of it, by names in the file."""
        saved = as_saved(self.module, _live(self.module, sums))
        return {name: saved[inside] for name, inside in self.names.items()}

    def whole(self) -> dict[nn.Parameter, tuple[str, ...]]:
        """Parameters that stand in the file whole -> their names there; tied ones have several."""
        weights = {p: p.detach() for p in self.parameters}
        names: dict[tuple[int, torch.Size], list[str]] = {}
        for name, view in self.by_name(weights).items():
            names.setdefault((view.data_ptr(), view.shape), []).append(name)
        found = {p: tuple(names.get((w.data_ptr(), w.shape), ())) for p, w in weights.items()}
        return {p: some for p, some in found.items() if some}


@contextmanager
def load(model: str, device: str) -> Iterator[Subject]:
    """Raises InputError, MissingExtra or DeviceError."""
    extras.need("measure", "transformers")
    where = devices.resolve(device)
    if Path(model).is_dir() and lora.adapter_file(Path(model)) is not None:
        raise InputError(
            f"{model} is a LoRA adapter; measure the whole model: pack it with its base, unpack it"
        )
    with cached_whole(), closing(open_checkpoint(model)) as checkpoint:  # transformers reads it
        if not checkpoint.path.is_dir():
            raise InputError(f"{model} is a file; measure needs the model's folder with its config")
        yield _load(checkpoint, where)


def _load(checkpoint: Checkpoint, device: torch.device) -> Subject:
    label, folder = checkpoint.name, checkpoint.path
    cls, config = model_class(folder, label, "measure needs a model that transformers can build")
    kind = _kind(cls.__name__, label)
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{label} is quantised; measure the model that it was made from")
    size = sum(info.numel for info in checkpoint.tensors.values()) * 4
    devices.require(torch.device("cpu"), {"weights in float32": size}, "use a larger machine")
    try:
        with _quiet(), offline():
            module, info = cls.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # whatever a model's files lead to
        raise CheckpointError(label, f"cannot be loaded: {one_line(error)}") from None
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            first = ", ".join(sorted(map(str, info[what]))[:3])
            raise CheckpointError(label, f"{what.replace('_', ' ')} of {cls.__name__}: {first}")
    module.eval().to(device)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return Subject(label, folder, checkpoint, module, config, kind, _names(module, checkpoint))


def _kind(architecture: str, label: str) -> Kind:
    from transformers.models.auto import modeling_auto as auto

    kinds: dict[Kind, Any] = {
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "text": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    for kind, names in kinds.items():
        for found in names.values():
            if architecture in ((found,) if isinstance(found, str) else found):
                return kind
    raise InputError(
        f"{label} is a {architecture}; measure knows causal language models and classifiers of "
        "text and of images"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _live(module: nn.Module, sums: Sums) -> dict[str, Tensor]:
    """name -> tensor of its parameter, for each name that a parameter has."""
    every = module.named_parameters(remove_duplicate=False)
    return {name: sums[parameter] for name, parameter in every if parameter in sums}


def _names(module: Any, checkpoint: Checkpoint) -> dict[str, str]:
    """Name in the file -> name when saved; raises InputError where they are not the same."""
    weights = {p: p.detach() for p in module.parameters() if p.is_floating_point()}
    try:
        saved = as_saved(module, _live(module, weights))
    except SwapError as error:
        raise InputError(f"{checkpoint.name}: {error}") from None
    prefix, names, covered = f"{module.base_model_prefix}.", dict[str, str](), set[int]()
    for inside, view in saved.items():
        for name in {inside, inside.removeprefix(prefix), prefix + inside}:
            if name in checkpoint.tensors:
                _compare(checkpoint, name, view)
                names[name] = inside
                covered.add(view.data_ptr())
    for inside, view in saved.items():
        if view.numel() and view.data_ptr() not in covered:
            raise InputError(f"{checkpoint.name}: parameter {inside!r} is no tensor of its files")
    return names


def _compare(checkpoint: Checkpoint, name: str, view: Tensor) -> None:
    info = checkpoint.tensors[name]
    flat = view.reshape(-1)
    if info.dtype not in MASKED:
        raise InputError(
            f"{checkpoint.name}: tensor {name!r} is {info.dtype}; it has no statistics"
        )
    same = info.shape == tuple(view.shape)
    for start in range(0, info.numel if same else 0, BLOCK):
        raw = checkpoint.read(name, start, min(start + BLOCK, info.numel))
        if not floats.all_finite(raw, info.dtype):
            raise InputError(
                f"{checkpoint.name}: tensor {name!r} holds NaN or Inf, so nothing can be measured "
                "with it; give a checkpoint from before it diverged"
            )
        live = flat[start : start + raw.size].cpu().numpy()
        same = same and np.array_equal(live, floats.to_float32(raw, info.dtype))
    if not same:
        raise InputError(
            f"{checkpoint.name}: transformers changes tensor {name!r} when it loads it, so there "
            "are no statistics of what the file holds"
        )
