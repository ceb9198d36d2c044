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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from taskstore.errors import CheckpointError
from taskstore.format.dtypes import MASKED
from taskstore.format.members import Made
from taskstore.models.checkpoint import Checkpoint, Reader, TensorInfo
from taskstore.models.readers import adapter_config
from taskstore.models.readers.adapter_config import CONFIG as CONFIG
from taskstore.models.readers.adapter_config import MERGE_FIRST
from taskstore.models.readers.adapter_config import adapter_file as adapter_file
from taskstore.models.readers.adapter_names import Names
from taskstore.models.readers.adapter_steps import Step, read_factor, same_tensor, step_of

_PART = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|ia3_l"
    r"|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)(\.weight)?$"
)
_OTHER = re.compile(r"(^|\.)(lora|ia3|vera|hada|lokr|oft|boft|hra|fourierft)_")
_SAVED = re.compile(r"\.(modules_to_save|base_layer|token_adapter\.base_layer)(?=\.)")
FACTORS = 8  # that are kept for the next tensors: experts share theirs
Parts = dict[str, str]  # part of an adapted layer -> the adapter's tensor


class LoraReader:
    """The fine-tune that `adapter` makes of `base`."""

    def __init__(self, folder: Path, adapter: Reader, base: Checkpoint) -> None:
        """Raises CheckpointError where the adapter cannot be applied to this base exactly."""
        self.folder, self.factors, self._base = folder, adapter, base.reader
        self.config = adapter_config.read_config(folder)
        self._patterns = adapter_config.patterns_of(folder, self.config)
        self._names = Names(base, self.config)
        self.tensors: dict[str, TensorInfo] = dict(base.tensors)
        self._how: dict[str, Made] = {}
        self._also: dict[str, str] = {}  # a tensor to which the same is done as to another
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
        self._how |= {also: self._how[name] for also, name in self._also.items()}
        self._factor = lru_cache(FACTORS)(partial(read_factor, adapter))
        self._steps = {n: self._step_of(n) for n in self._how}

    def _fail(self, problem: str) -> None:
        raise CheckpointError(self.folder, problem)

    def _tie(self, layers: Mapping[str, Parts]) -> None:
        """Give a tied head a matrix of its own where one side of the tie changes without the other.

        It starts as what the other side was before: the base's, or the adapter's with new rows.
        """
        tie = self._names.tie()
        if tie is None:
            return
        head, embedding = tie
        if not any(self._names.changes(name, layers) for name in tie):
            if (
                head in self.saved
                and embedding in self.saved
                and same_tensor(self.factors, *(self.saved[name] for name in tie))
            ):
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

    def _save(self, name: str, key: str) -> None:
        name = self._names.resolve(name) or name
        self.saved[name] = key
        self.tensors[name] = self.factors.tensors[key]

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
            raise CheckpointError(self.folder, self._names.missing(nested))
        if "ia3_l" in parts:
            self._scale(name, parts["ia3_l"])
        if "token_adapter.trainable_tokens_delta" in parts:
            self._tokens(nested, name, parts["token_adapter.trainable_tokens_delta"])
        if any(part.startswith("lora_") for part in parts):
            self._low_rank(nested, name, parts)

    def _shapes(self, parts: Parts) -> tuple[tuple[int, ...], ...]:
        return tuple(self._shape(parts[p]) for p in ("lora_A", "lora_B") if p in parts)

    def _weight(self, name: str, module: str) -> TensorInfo:
        info = self.tensors[name]
        if info.dtype not in MASKED or len(info.shape) < 2:
            self._fail(f"layer {module!r} is {info.dtype} in the base{self._names.quantised(name)}")
        return info

    def _change(self, name: str, **how: Any) -> None:
        """Note one more thing that is done to a tensor."""
        self._how[name] = msgspec.structs.replace(self._how.get(name, Made()), **how)

    def _step_of(self, name: str) -> Step:
        info = self.tensors[name]
        return step_of(self._how[name], info.dtype, info.shape, self._factor)

    def _low_rank(self, module: str, name: str, parts: Parts) -> None:
        kind = "lora_embedding_" if "lora_embedding_A" in parts else "lora_"
        if not {f"{kind}A", f"{kind}B"} <= parts.keys():
            self._fail(f"layer {module!r} has not both lora_A and lora_B")
        info, keys = self._weight(name, module), [parts[f"{kind}{side}"] for side in "AB"]
        a, b = (self._shape(key) for key in keys)
        rank, columns = a[0], math.prod(info.shape[1:])
        left, right = (b[0], math.prod(b[1:])), (rank, math.prod(a[1:]))
        straight = (left, right) == ((info.shape[0], rank), (rank, columns))
        turned = (right, left) == ((rank, info.shape[0]), (columns, rank))
        if kind == "lora_embedding_":
            straight = False
        if not straight and not turned:
            self._fail(
                f"layer {module!r}: A {a} and B {b} do not make {list(info.shape)}"
                f"{self._names.other_base()}"
            )
        is_turned = turned and (not straight or self._names.is_conv1d(name))
        if self._how.get(name, Made()).a is not None:
            self._fail(f"holds layer {module!r} twice")
        scale = self._scaling(module, rank)
        self._change(name, a=keys[0], b=keys[1], scale=scale, turned=is_turned)
        if "lora_magnitude_vector" in parts:
            size, key = columns if is_turned else info.shape[0], parts["lora_magnitude_vector"]
            found = math.prod(self._shape(key, least=1))
            if found != size:
                self._fail(f"layer {module!r}: {found} magnitudes for {size} outputs")
            self._change(name, vector=key, columns=is_turned, length=True)
        elif self.config.get("use_dora"):
            self._fail(f"layer {module!r} has no lora_magnitude_vector, and use_dora is set")

    def _experts(self, module: str, name: str, parts: Parts) -> None:
        """LoRA of a parameter (E, a, b): A (E R, b) and B (a, R E), or a and b the other way."""
        (experts, height, columns), a, b = self.tensors[name].shape, *self._shapes(parts)
        parameter = f"{module}.{name.rsplit('.', 1)[-1]}"
        if name in self._how or self.tensors[name].dtype not in MASKED:
            self._fail(f"the parameter {parameter!r} cannot be adapted here; {MERGE_FIRST}")
        self._change(
            name,
            a=parts["lora_A"],
            b=parts["lora_B"],
            scale=self._scaling(parameter, a[0] // experts),
            experts=experts,
            turned=(b[0], math.prod(a[1:])) != (height, columns),  # (E, in, out), as is_transposed
        )

    def _single_experts(
        self, module: str, parameter: str, experts: int, names: list[str], parts: Parts
    ) -> None:
        """The same where the base has a tensor per expert, or two whose rows follow each other."""
        scale, at = self._scaling(f"{module}.{parameter}", self._shapes(parts)[0][0] // experts), 0
        for i, name in enumerate(names):
            e = i * experts // len(names)
            at = 0 if i % (len(names) // experts) == 0 else at
            self._weight(name, name)
            if self._how.get(name, Made()).a is not None:
                self._fail(f"the parameter {parameter!r} of {module!r} is adapted twice")
            how = {"scale": scale, "experts": experts, "expert": e, "row": at}
            self._change(name, a=parts["lora_A"], b=parts["lora_B"], **how)
            at += self.tensors[name].shape[0]

    def _scale(self, name: str, key: str) -> None:
        """IA3: outputs (O, 1), with their bias, or inputs (1, I)."""
        info, shape = self._weight(name, name), self._shape(key)
        is_output = shape[1:] == (1,) * (len(shape) - 1) and shape[0] > 1
        by_rows = is_output != self._names.is_conv1d(name)
        if len(info.shape) > 2 or math.prod(shape) != info.shape[not by_rows]:
            self._fail(
                f"layer {name!r}: {list(shape)} does not scale {list(info.shape)}; {MERGE_FIRST}"
            )
        self._change(name, vector=key, columns=not by_rows)
        bias = f"{name.removesuffix('weight')}bias"
        if is_output and bias in self.tensors:
            self._how[bias] = Made(vector=key)

    def _tokens(self, module: str, name: str, key: str) -> None:
        chosen = self.config.get("trainable_token_indices")
        if isinstance(chosen, dict):
            chosen = next((v for k, v in chosen.items() if f".{module}".endswith(f".{k}")), None)
        info, shape = self._weight(name, module), self._shape(key)
        indices = chosen if isinstance(chosen, list) else []
        fits = all(type(row) is int and 0 <= row < info.shape[0] for row in indices)
        if not fits or len(set(indices)) != shape[0] or shape[1:] != info.shape[1:]:
            self._fail(f"its trainable_token_indices do not name the rows of {key!r}")
        self._change(name, tokens=key, rows=indices)
        tie = self._names.tie()
        if tie and name == tie[1] and tie[0] in self.tensors and self.own_head is None:
            self._also[tie[0]] = name  # the base's files hold both

    def _scaling(self, module: str, rank: int) -> float:
        try:
            return adapter_config.scaling(self.config, self._patterns, module, rank)
        except ValueError as error:
            raise CheckpointError(self.folder, f"its alpha_pattern {error}") from None

    def _shape(self, key: str, least: int = 2) -> tuple[int, ...]:
        """Return the shape of a factor; raises CheckpointError where it is none."""
        info = self.factors.tensors[key]
        if info.dtype not in MASKED or len(info.shape) < least or not info.numel:
            self._fail(f"adapter tensor {key!r} is {info.dtype} {list(info.shape)}")
        return info.shape

    def made(self, name: str) -> Made | None:
        """Return how a tensor is made of the base's and the adapter's; None: it is the base's."""
        how, saved, base = self._how.get(name), *self._start(name)
        if how is None and saved is None and base == name:
            return None
        other = base if saved is None and base != name else None
        return msgspec.structs.replace(how or Made(), saved=saved, base=other)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        step = self._steps.get(name)
        if step is None or start >= stop:
            return self._before(name, start, stop)
        info = self.tensors[name]
        return step.made(partial(self._before, name), info.dtype, info.numel, start, stop)

    def _start(self, name: str) -> tuple[str | None, str]:
        """Return the tensor that one is before any step: the adapter's own, or the base's."""
        source = name if name in self.saved else self._source.get(name, name)
        if source in self.saved and not (source != name and self._base_only):
            return self.saved[source], source
        return None, source

    def _before(self, name: str, start: int, stop: int) -> NDArray[Any]:
        saved, source = self._start(name)
        if saved is not None:
            return self.factors.read(saved, start, stop)
        return self._base.read(source, start, stop)

    def read_into(self, name: str, start: int, out: NDArray[Any]) -> None:
        out[:] = self.read(name, start, start + out.size)

    def close(self) -> None:
        """Close the adapter; the base is its owner's to close."""
        self.factors.close()
        self.kept_until_closed.close()
