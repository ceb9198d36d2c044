"""Read PEFT adapter folders as the full fine-tune that they stand for.

LoRA with rsLoRA, DoRA, alpha and rank patterns, fused experts (`target_parameters`) and trained
rows of tokens; IA3. What `modules_to_save`, trained biases and a saved `base_layer` (an embedding,
perhaps with new rows) hold replaces the base's tensors or stands beside them. The factors are all
that stays in memory; `adapter_steps` says what is computed. Embeddings and Conv1D layers are
transposed, told by their shapes. A head that is tied in the base gets a matrix of its own where an
adapter changes one side of the tie, as it computes in PEFT. Other kinds are refused by name.

Legend: A (R, I) and B (O, R) an adapter's factors, s = alpha / R, or alpha / sqrt(R) for rsLoRA.

Source: Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732 (rsLoRA); PEFT's file layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import CheckpointError
from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.models.checkpoint import Checkpoint, Reader, TensorInfo
from taskstore.models.readers import adapter_config
from taskstore.models.readers.adapter_config import CONFIG as CONFIG
from taskstore.models.readers.adapter_config import MERGE_FIRST
from taskstore.models.readers.adapter_config import adapter_file as adapter_file
from taskstore.models.readers.adapter_names import Names
from taskstore.models.readers.adapter_steps import BLOCK, F64, Step

_PART = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|ia3_l"
    r"|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)(\.weight)?$"
)
_OTHER = re.compile(r"(^|\.)(lora|ia3|vera|hada|lokr|oft|boft|hra|fourierft)_")
_SAVED = re.compile(r"\.(modules_to_save|base_layer|token_adapter\.base_layer)(?=\.)")
Parts = dict[str, str]  # part of an adapted layer -> the adapter's tensor


class LoraReader:
    """The fine-tune that `adapter` makes of `base`."""

    def __init__(self, folder: Path, adapter: Reader, base: Checkpoint) -> None:
        """Raises CheckpointError where the adapter cannot be applied to this base exactly."""
        self._path, self._adapter, self._base = folder, adapter, base.reader
        self.config = adapter_config.read_config(folder)
        self._patterns = adapter_config.patterns_of(folder, self.config)
        self._names = Names(base, self.config)
        self.tensors: dict[str, TensorInfo] = dict(base.tensors)
        self._steps: dict[str, Step] = {}
        self.saved: dict[str, str] = {}  # tensor -> the adapter's that replaces it
        self.kept_until_closed = ExitStack()
        self.own_head: str | None = None  # a head that is tied in the base, and here no more
        self._source: dict[str, str] = {}  # a tensor that starts as another
        self._base_only = False  # whether that is the base's, not the adapter's
        layers: dict[str, Parts] = {}
        for key in adapter.tensors:
            name = re.sub(r"^base_model\.model\.", "", key).replace(".default.", ".")
            name = name.removesuffix(".default")
            found = _PART.match(name)
            if found and found["part"].startswith("ia3_") == (self.config["peft_type"] == "IA3"):
                layers.setdefault(found["module"], {})[found["part"]] = key
            elif found or _OTHER.search(name):
                self._fail(f"adapter tensor {key!r} is of a kind not supported; {MERGE_FIRST}")
            elif ".original_module." not in name:
                self._save(_SAVED.sub("", name), key)
        if problem := self._names.unread(layers):
            self._fail(problem)
        self._tie(layers)
        for module, parts in layers.items():
            self._apply(module, parts)

    def _fail(self, problem: str) -> None:
        raise CheckpointError(self._path, problem)

    def _tie(self, layers: Mapping[str, Parts]) -> None:
        """Give a tied head a matrix of its own where one side of the tie changes without the other.

        It starts as what the other side was before: the base's, or the adapter's with new rows.
        """
        tie = self._names.tie()
        if tie is None:
            return
        head, embedding = tie
        if not any(self._names.changes(name, layers) for name in tie):
            if head in self.saved and embedding in self.saved and self._equal(*tie):
                self._forget(head)  # new rows, saved under both names
            elif head in self.saved:
                self.own_head = head
            return
        self.own_head = head
        if head not in self.saved:
            whole = self._names.is_saved_whole(embedding, self.tensors)
            source = self._base.tensors if whole else self.tensors
            self._source[head] = embedding
            self._base_only = whole
            self.tensors[head] = source[embedding]

    def _forget(self, name: str) -> None:
        del self.saved[name]
        self.tensors.pop(name)
        if name in self._base.tensors:
            self.tensors[name] = self._base.tensors[name]

    def _equal(self, one: str, two: str) -> bool:
        a, b = (self.saved[name] for name in (one, two))
        info = self._adapter.tensors[a]
        read = self._adapter.read
        ends = ((at, min(at + BLOCK, info.numel)) for at in range(0, info.numel, BLOCK))
        same = info == self._adapter.tensors[b]
        return same and all(np.array_equal(read(a, *end), read(b, *end)) for end in ends)

    def _save(self, name: str, key: str) -> None:
        name = self._names.resolve(name) or name
        self.saved[name] = key
        self.tensors[name] = self._adapter.tensors[key]

    def _apply(self, module: str, parts: Parts) -> None:
        """Make the step of one layer; `module` is what the adapter calls it."""
        nested = re.sub(r"(\.base_layer)+$", "", module)
        name = self._names.resolve(f"{nested}.weight", self.tensors)
        if name is None and (fused := self._names.experts(nested, self._shapes(parts))):
            self._experts(nested, fused, parts)
            return
        if name is None and (found := self._names.single_experts(nested, self._shapes(parts))):
            self._single_experts(nested, *found, parts)
            return
        if name is None:
            raise CheckpointError(self._path, self._names.missing(nested))
        if "ia3_l" in parts:
            self._scale(name, parts["ia3_l"])
        if "token_adapter.trainable_tokens_delta" in parts:
            self._tokens(nested, name, parts["token_adapter.trainable_tokens_delta"])
        if any(part.startswith("lora_") for part in parts):
            self._low_rank(nested, name, parts)

    def _shapes(self, parts: Parts) -> tuple[tuple[int, ...], ...]:
        return tuple(
            self._adapter.tensors[parts[p]].shape for p in ("lora_A", "lora_B") if p in parts
        )

    def _step(self, name: str, module: str) -> Step:
        info = self.tensors[name]
        if info.dtype not in MASKED or len(info.shape) < 2:
            self._fail(f"layer {module!r} is {info.dtype} in the base{self._names.quantised(name)}")
        return self._steps.setdefault(name, Step(math.prod(info.shape[1:])))

    def _low_rank(self, module: str, name: str, parts: Parts) -> None:
        kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
        if not {f"{kind}A", f"{kind}B"} <= parts.keys():
            self._fail(f"layer {module!r} has not both lora_A and lora_B")
        step, info = self._step(name, module), self.tensors[name]
        a, b = (self._factor(parts[f"{kind}{side}"]) for side in "AB")
        rank, columns = a.shape[0], step.columns
        left, right = b.reshape(b.shape[0], -1), a.reshape(rank, -1)
        straight = (left.shape, right.shape) == ((info.shape[0], rank), (rank, columns))
        turned = (right.shape, left.shape) == ((rank, info.shape[0]), (columns, rank))
        if kind == "lora_embedding_":
            straight = False
        if not straight and not turned:
            self._fail(
                f"layer {module!r}: A {a.shape} and B {b.shape} do not make {list(info.shape)}"
                f"{self._names.other_base()}"
            )
        is_turned = turned and (not straight or self._names.is_conv1d(name))
        if is_turned:
            left, right = right.T, left.T
        if step.left is not None:
            self._fail(f"holds layer {module!r} twice")
        step.left = np.ascontiguousarray(left * self._scaling(module, rank))[None]
        step.right = np.ascontiguousarray(right)[None]
        if "lora_magnitude_vector" in parts:
            size = columns if is_turned else info.shape[0]
            vector = self._factor(parts["lora_magnitude_vector"], least=1).reshape(-1)
            if vector.size != size:
                self._fail(f"layer {module!r}: {vector.size} magnitudes for {size} outputs")
            step.vector, step.by_rows, step.is_magnitude = vector, not is_turned, True
        elif self.config.get("use_dora"):
            self._fail(f"layer {module!r} has no lora_magnitude_vector, and use_dora is set")

    def _experts(self, module: str, name: str, parts: Parts) -> None:
        """LoRA of a parameter (E, a, b): A (E R, b) and B (a, R E), or a and b the other way."""
        experts, height, columns = self.tensors[name].shape
        left, right, rank = self._of_experts(parts, experts)
        if (left.shape[1], right.shape[2]) != (height, columns):  # (E, in, out), as is_transposed
            left, right = right.transpose(0, 2, 1), left.transpose(0, 2, 1)
        parameter = f"{module}.{name.rsplit('.', 1)[-1]}"
        step = self._steps.setdefault(name, Step(columns))
        if step.left is not None or self.tensors[name].dtype not in MASKED:
            self._fail(f"the parameter {parameter!r} cannot be adapted here; {MERGE_FIRST}")
        step.left = np.ascontiguousarray(left * self._scaling(parameter, rank))
        step.right = np.ascontiguousarray(right)

    def _single_experts(
        self, module: str, parameter: str, experts: int, names: list[str], parts: Parts
    ) -> None:
        """The same where the base has a tensor per expert, or two whose rows follow each other."""
        left, right, rank = self._of_experts(parts, experts)
        left, at = left * self._scaling(f"{module}.{parameter}", rank), 0
        for i, name in enumerate(names):
            e, step = i * experts // len(names), self._step(name, name)
            at = 0 if i % (len(names) // experts) == 0 else at
            stop = at + self.tensors[name].shape[0]
            if step.left is not None:
                self._fail(f"the parameter {parameter!r} of {module!r} is adapted twice")
            step.left, step.right, at = left[e, at:stop][None], right[e][None], stop

    def _of_experts(self, parts: Parts, experts: int) -> tuple[F64, F64, int]:
        """Read factors of E experts as (E, O, R) and (E, R, I); also the rank R."""
        a, b = self._factor(parts["lora_A"]), self._factor(parts["lora_B"])
        rank = a.shape[0] // experts
        left = b.reshape(len(b), rank, experts).transpose(2, 0, 1)
        return left, a.reshape(experts, rank, -1), rank

    def _scale(self, name: str, key: str) -> None:
        """IA3: outputs (O, 1), with their bias, or inputs (1, I)."""
        step, info = self._step(name, name), self.tensors[name]
        vector = self._factor(key)
        is_output = vector.shape[1:] == (1,) * (vector.ndim - 1) and vector.shape[0] > 1
        step.by_rows = is_output != self._names.is_conv1d(name)
        step.vector = vector.reshape(-1)
        if len(info.shape) > 2 or step.vector.size != info.shape[not step.by_rows]:
            self._fail(
                f"layer {name!r}: {list(vector.shape)} does not scale {list(info.shape)}; "
                f"{MERGE_FIRST}"
            )
        bias = f"{name.removesuffix('weight')}bias"
        if is_output and bias in self.tensors:
            self._steps[bias] = Step(1, vector=step.vector)

    def _tokens(self, module: str, name: str, key: str) -> None:
        chosen = self.config.get("trainable_token_indices")
        if isinstance(chosen, dict):
            chosen = next((v for k, v in chosen.items() if f".{module}".endswith(f".{k}")), None)
        info, rows = self.tensors[name], self._factor(key)
        indices = chosen if isinstance(chosen, list) else []
        fits = all(type(row) is int and 0 <= row < info.shape[0] for row in indices)
        if not fits or len(set(indices)) != len(rows) or rows.shape[1:] != info.shape[1:]:
            self._fail(f"its trainable_token_indices do not name the rows of {key!r}")
        step = self._step(name, module)
        bits = floats.from_float32(rows.astype(np.float32).reshape(-1), info.dtype)
        step.tokens = dict(zip(indices, bits.reshape(rows.shape), strict=True))
        tie = self._names.tie()
        if tie and name == tie[1] and tie[0] in self.tensors and self.own_head is None:
            self._steps[tie[0]] = step  # the base's files hold both

    def _scaling(self, module: str, rank: int) -> float:
        try:
            pattern = self._patterns.first(module)
        except ValueError as error:
            raise CheckpointError(self._path, f"its alpha_pattern {error}") from None
        alphas: dict[str, Any] = self.config.get("alpha_pattern") or {}
        alpha = self.config.get("lora_alpha", 8) if pattern is None else alphas[pattern]
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _factor(self, key: str, least: int = 2) -> F64:
        info = self._adapter.tensors[key]
        if info.dtype not in MASKED or len(info.shape) < least or not info.numel:
            self._fail(f"adapter tensor {key!r} is {info.dtype} {list(info.shape)}")
        raw = self._adapter.read(key, 0, info.numel)
        return floats.to_float32(raw, info.dtype).astype(np.float64).reshape(info.shape)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        step = self._steps.get(name)
        if step is None or start >= stop:
            return self._before(name, start, stop)
        info = self.tensors[name]
        if not step.computes:
            return step.put_tokens(self._before(name, start, stop), start)

        def read(first: int, last: int) -> F64:
            return floats.to_float32(self._before(name, first, last), info.dtype).astype(np.float64)

        with np.errstate(all="ignore"):  # what overflows is refused as infinite
            weights_N = step.floats(read, info.numel, start, stop).astype(np.float32)
        return step.put_tokens(floats.from_float32(weights_N, info.dtype), start)

    def _before(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read a tensor as it is before any step: the adapter's own, or the base's."""
        source = name if name in self.saved else self._source.get(name, name)
        if source in self.saved and not (source != name and self._base_only):
            return self._adapter.read(self.saved[source], start, stop)
        return self._base.read(source, start, stop)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        out[:] = self.read(name, start, start + out.size)

    def close(self) -> None:
        """Close the adapter; the base is its owner's to close."""
        self._adapter.close()
        self.kept_until_closed.close()
