"""Read PEFT LoRA adapter folders as the full fine-tune that they stand for.

Legend: W (O, I) a weight of the base, A (R, I) and B (O, R) its adapter, s = alpha / R, or
alpha / sqrt(R) for rank-stabilised LoRA. The fine-tune is round(W + s B A) in the base's dtype,
computed row block by row block in float64, so the adapter's factors are all that stays in memory.
Embeddings and Conv1D layers are transposed, told by their shapes; `modules_to_save`, trained biases
and a `base_layer` that was saved (an embedding, perhaps with new rows) replace the base's tensors.
DoRA, LoRA biases and other adapter kinds are refused by name.

Source: Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732 (rsLoRA); PEFT's file layout.
"""

from __future__ import annotations

import math
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import CheckpointError
from taskstore.format import json_text
from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.locations.pointers import pointer
from taskstore.models.checkpoint import Reader, TensorInfo
from taskstore.models.readers.patterns import Patterns

F64 = NDArray[np.float64]
CONFIG = "adapter_config.json"
MAX_ALPHA = 1e30
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?$")
_OTHER = re.compile(r"(^|\.)(lora|ia3|vera|hada|lokr|oft|boft|hra|fourierft)_")
_REFUSED = (
    *("use_dora", "lora_bias", "trainable_token_indices", "megatron_config", "use_qalora"),
    *("layer_replication", "alora_invocation_tokens", "arrow_config", "use_bdlora"),
    *("kasa_config", "monteclora_config", "velora_config"),
)
_WIDE = ("c_attn.weight", "c_fc.weight")  # layers of GPT-2's kind, more outputs than inputs
_RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that change W itself


@dataclass(frozen=True)
class Delta:
    """s * left @ right, float64 (rows, R) and (R, columns), in the base tensor's own layout."""

    left: F64
    right: F64

    def rows(self, start: int, stop: int) -> F64:
        product: F64 = self.left[start:stop] @ self.right
        return product


class LoraReader:
    """The fine-tune that `adapter` makes of `base`."""

    def __init__(self, folder: Path, adapter: Reader, base: Reader) -> None:
        """Raises CheckpointError where the adapter cannot be applied to this base exactly."""
        self._path, self._adapter, self._base = folder, adapter, base
        self._config = read_config(folder)
        self._patterns = _patterns(folder, self._config)
        self.tensors: dict[str, TensorInfo] = dict(base.tensors)
        self._deltas: dict[str, Delta] = {}
        self._saved: dict[str, str] = {}
        sides: dict[str, dict[str, str]] = {}
        for key in adapter.tensors:
            name = re.sub(r"^base_model\.model\.", "", key).replace(".default.", ".")
            found = _LORA.match(name)
            if found:
                kind = "embedding" if found["embedding"] else "linear"
                sides.setdefault(f"{kind} {found['module']}", {})[found["side"]] = key
            elif _OTHER.search(name):
                raise CheckpointError(folder, f"adapter tensor {key!r} is of a kind not supported")
            else:
                self._save(re.sub(r"\.(modules_to_save|base_layer)\.", ".", name), key)
        for target, keys in sides.items():
            kind, module = target.split(" ", 1)
            self._target(kind, module, keys)

    def _save(self, name: str, key: str) -> None:
        name = self._resolve(name) or name
        self._saved[name] = key
        self.tensors[name] = self._adapter.tensors[key]

    def _resolve(self, name: str) -> str | None:
        """Return the base's name for a tensor that the adapter calls `name`, prefixes aside."""
        if name in self._base.tensors:
            return name
        ends = [n for n in self._base.tensors if n.endswith(f".{name}") or name.endswith(f".{n}")]
        return ends[0] if len(ends) == 1 else None

    def _target(self, kind: str, module: str, keys: dict[str, str]) -> None:
        if set(keys) != {"A", "B"}:
            raise CheckpointError(self._path, f"layer {module!r} has not both lora_A and lora_B")
        name = self._resolve(f"{module}.weight")
        if name is None:
            raise CheckpointError(self._path, f"the base has no weight for layer {module!r}")
        info = self.tensors[name]
        if info.dtype not in MASKED or len(info.shape) < 2:
            raise CheckpointError(
                self._path,
                f"layer {module!r} is {info.dtype} in the base, which seems to be quantised; take "
                "the 16-bit model that it was made from as the base",
            )
        a, b = (self._factor(keys[side]) for side in "AB")
        rank, columns = a.shape[0], math.prod(info.shape[1:])
        left, right = b.reshape(b.shape[0], -1), a.reshape(rank, -1)
        straight = (left.shape, right.shape) == ((info.shape[0], rank), (rank, columns))
        turned = (right.shape, left.shape) == ((rank, info.shape[0]), (columns, rank))
        if kind == "embedding":
            straight = False
        if not straight and not turned:
            raise CheckpointError(
                self._path,
                f"layer {module!r}: A {a.shape} and B {b.shape} do not make {list(info.shape)}",
            )
        if turned and (not straight or self._is_conv1d(name)):
            left, right = right.T, left.T
        if name in self._deltas:
            raise CheckpointError(self._path, f"holds layer {module!r} twice")
        scale = self._alpha(module) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
        self._deltas[name] = Delta(np.ascontiguousarray(left) * scale, np.ascontiguousarray(right))

    def _is_conv1d(self, name: str) -> bool:
        """Tell whether a square weight is stored (in, out), as transformers' Conv1D does.

        The adapter has one `fan_in_fan_out` for all its layers, and PEFT saves the last layer's,
        so a sibling of the same block that is not square tells better.
        """
        block = re.match(r"(.*\.\d+\.)", name)
        for other, info in self._base.tensors.items():
            sibling = block and other.startswith(block[1]) and other.endswith(_WIDE)
            if sibling and len(info.shape) == 2 and info.shape[0] != info.shape[1]:
                return info.shape[0] < info.shape[1]
        return bool(self._config.get("fan_in_fan_out"))

    def _alpha(self, module: str) -> float:
        try:
            pattern = self._patterns.first(module)
        except ValueError as error:
            raise CheckpointError(self._path, f"its alpha_pattern {error}") from None
        if pattern is not None:
            return float(self._config["alpha_pattern"][pattern])
        return float(self._config.get("lora_alpha", 8))

    def _factor(self, key: str) -> F64:
        info = self._adapter.tensors[key]
        if info.dtype not in MASKED or len(info.shape) < 2 or not info.numel:
            raise CheckpointError(
                self._path, f"adapter tensor {key!r} is {info.dtype} {list(info.shape)}"
            )
        raw = self._adapter.read(key, 0, info.numel)
        return floats.to_float32(raw, info.dtype).astype(np.float64).reshape(info.shape)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        if name in self._saved:
            block_N = self._adapter.read(self._saved[name], start, stop)
        else:
            block_N = self._base.read(name, start, stop)
        if name not in self._deltas or start == stop:
            return block_N
        info, delta = self.tensors[name], self._deltas[name]
        columns = delta.right.shape[1]
        first, last = start // columns, -(-stop // columns)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
            step_N = delta.rows(first, last).reshape(-1)[start - first * columns :][: stop - start]
            weights_N = floats.to_float32(block_N, info.dtype).astype(np.float64) + step_N
            return floats.from_float32(weights_N.astype(np.float32), info.dtype)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        out[:] = self.read(name, start, start + out.size)

    def close(self) -> None:
        """Close the adapter; the base is its owner's to close."""
        self._adapter.close()


def read_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`; it is refused where it is not plain LoRA."""
    try:
        config = json_text.read(folder / CONFIG, folder)
    except (ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        wrong = pointer(folder / CONFIG, folder)
        problem = wrong.problem if wrong else f"cannot be read as JSON: {why}"
        raise CheckpointError(folder / CONFIG, problem) from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CheckpointError(folder, "is an adapter of a kind other than LoRA")
    for option in _REFUSED:
        if config.get(option):
            raise CheckpointError(folder, f"is a LoRA adapter with {option}, not supported")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_RESIDUAL):
        raise CheckpointError(
            folder,
            f"is a LoRA adapter that started with {start}, which changes the base; convert it to "
            "plain LoRA with PEFT first",
        )
    return config


def _patterns(folder: Path, config: dict[str, Any]) -> Patterns:
    """Check the numbers of an adapter; returns its patterns."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(folder, "has an alpha_pattern that is no object")
    for value in (config.get("lora_alpha", 8), *patterns.values()):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= MAX_ALPHA:
            raise CheckpointError(folder, f"has an alpha that is no number: {reprlib.repr(value)}")
    try:
        return Patterns(patterns)
    except ValueError as error:
        raise CheckpointError(folder, f"its alpha_pattern {error}") from None


def adapter_file(folder: Path) -> Path | None:
    """Return the weight file of an adapter folder; None for another folder."""
    for file in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / CONFIG).is_file() and (folder / file).is_file():
            return folder / file
    return None
