"""Find what an adapter means in its base: layers under their names, layouts, ties."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from taskstore.format.dtypes import MASKED
from taskstore.models.checkpoint import Checkpoint, TensorInfo
from taskstore.models.config import language_config, read_config
from taskstore.models.readers.adapter_config import MERGE_FIRST
from taskstore.models.spelling.experts import pieces_of
from taskstore.models.spelling.library import converted

IN = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
OUT = ("lm_head.weight", "embed_out.weight")
SHARED = ("shared.weight", "model.shared.weight")  # of an encoder and a decoder
_WIDE = ("c_attn.weight", "c_fc.weight")  # layers of GPT-2's kind, more outputs than inputs
_LANGUAGE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class Names:
    """The names of a base as an adapter with this `adapter_config.json` uses them."""

    def __init__(self, base: Checkpoint, config: Mapping[str, Any]) -> None:
        self._base, self._config = base, config

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        return language_config(self._base)

    @cached_property
    def _newer(self) -> dict[str, str]:
        """The names that transformers gives the base's tensors today -> those in its files."""
        now = converted(self._base.tensors, read_config(self._base))
        return {new: old for old, new in now.items()}

    @cached_property
    def _cores(self) -> dict[str, str]:
        """Names without `model`, which says where a model begins -> the base's, where it is one."""
        cores: dict[str, list[str]] = {}
        for name in self._base.tensors:
            cores.setdefault(_core(name), []).append(name)
        return {core: names[0] for core, names in cores.items() if len(names) == 1}

    def resolve(self, name: str, among: Collection[str] | None = None) -> str | None:
        """Return the base's name for a tensor that the adapter calls `name`, prefixes aside."""
        among = self._base.tensors if among is None else among
        found = _match(name, among)
        if found is None and (newer := _match(name, self._newer)):
            return self._newer[newer]
        return found or self._cores.get(_core(name))

    def experts(self, module: str, shapes: tuple[tuple[int, ...], ...]) -> str | None:
        """Return the parameter (E, a, b) of a module that factors of these shapes adapt."""
        if len(shapes) != 2 or not all(len(shape) == 2 for shape in shapes):
            return None
        (ranks, inside), (outside, also) = shapes
        found = []
        for name, info in self._base.tensors.items():
            of = name.rpartition(".")[0]
            if len(info.shape) != 3 or not (of == module or of.endswith(f".{module}")):
                continue
            fits = (outside, inside) in (info.shape[1:], info.shape[:0:-1])
            if fits and ranks == also and info.shape[0] and ranks % info.shape[0] == 0:
                found.append(name)
        return found[0] if len(found) == 1 else None

    def single_experts(
        self, module: str, shapes: tuple[tuple[int, ...], ...]
    ) -> tuple[str, int, list[str]] | None:
        """Find the experts, each a tensor, that a parameter of fused ones is in the base's files.

        Returns the parameter, the number of experts E and the tensors, expert by expert.
        """
        if len(shapes) != 2 or not all(len(shape) == 2 for shape in shapes):
            return None
        layer = module.rsplit(".", 2)[0]
        own = (n for n in self._base.tensors if n.startswith(f"{layer}."))
        count = len({found[1] for n in own if (found := re.search(r"\.experts\.(\d+)\.", n))})
        for parameter in ("gate_up_proj", "down_proj"):
            fused = TensorInfo("F32", (count, shapes[1][0], shapes[0][1]))
            names = pieces_of(f"{module}.{parameter}", fused, self._base.tensors)
            if names and shapes[0][0] == shapes[1][1] and shapes[0][0] % count == 0:
                return parameter, count, names
        return None

    def is_conv1d(self, name: str) -> bool:
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

    def missing(self, module: str) -> str:
        """Say why the base has no weight for a layer, and the way out."""
        problem = f"the base has no weight for layer {module!r}"
        if any(re.search(rf"(^|\.){re.escape(module)}\.0\.", name) for name in self._base.tensors):
            return (
                f"{problem}: the adapter was trained on fused experts (target_parameters), and the "
                "base's files hold them one by one; save the base with "
                f"save_pretrained(FOLDER, save_original_format=False), or {MERGE_FIRST}"
            )
        if module.endswith("experts") or self._config.get("target_parameters"):
            return f"{problem}, or in another shape (target_parameters); {MERGE_FIRST}"
        if self.resolve(f"{module}.qweight"):
            return problem + self.quantised(f"{module}.qweight")
        if module.endswith("embed_tokens") and self.resolve("shared.weight"):
            return (
                f"{problem} alone: it shares 'shared.weight' with other layers, which an adapter "
                "of one of them would change too; train it without embed_tokens "
                "(exclude_modules of its LoraConfig)"
            )
        return problem + self.other_base()

    def quantised(self, name: str) -> str:
        """Say that a tensor is packed, where it is."""
        if name in self._base.tensors and self._base.tensors[name].dtype in MASKED:
            return ""
        return (
            ", whose weights are quantised, so nothing can be added to them; give the 16-bit model "
            "that it was made of as the base"
        )

    def other_base(self) -> str:
        """Name the base that the adapter was trained on, for a message."""
        own = self._config.get("base_model_name_or_path")
        return f"; it was trained on {own[:200]!r}" if isinstance(own, str) and own else ""

    def tie(self) -> tuple[str, str] | None:
        """Return the head and the embedding that are one matrix in the base; None for no tie."""
        embeddings = [name for name in self._base.tensors if name.endswith(IN)]
        heads = [name for name in self._base.tensors if name.endswith(OUT)]
        said = self._settings.get("tie_word_embeddings")
        kinds = self._settings.get("architectures") or ["ForCausalLM"]
        language = isinstance(kinds, list) and str(kinds[0]).endswith(_LANGUAGE)
        if len(embeddings) != 1 or said is False or (heads and said is not True) or not language:
            return None
        named = "embed_out.weight" if embeddings[0].endswith("embed_in.weight") else OUT[0]
        return (heads[0] if heads else named), embeddings[0]

    def changes(self, tensor: str, layers: Mapping[str, Collection[str]]) -> bool:
        """Tell whether an adapter changes a tensor and not its tie, as rows of tokens do both."""
        last = tensor.removesuffix(".weight").rsplit(".", 1)[-1]
        steps = (p for module, ps in layers.items() if last in module.split(".") for p in ps)
        saved = self._config.get("modules_to_save") or ()
        named = isinstance(saved, list) and any(str(s).rsplit(".", 1)[-1] == last for s in saved)
        return named or any(not part.startswith("token_adapter") for part in steps)

    def unread(self, layers: Mapping[str, Collection[str]]) -> str | None:
        """Say that an adapter changes `shared`, which T5's and BART's encoders do not read."""
        for name in self._base.tensors:
            if name in SHARED and self.changes(name, layers):
                return (
                    f"changes {name!r}, and the model reads that matrix as its tied copies "
                    "(encoder.embed_tokens, decoder.embed_tokens), which PEFT leaves as they were: "
                    "what was trained is in no output of the adapted model; leave 'shared' out of "
                    f"the adapter, or, to have it in every copy, {MERGE_FIRST}"
                )
        return None

    def is_saved_whole(self, tensor: str, infos: Mapping[str, TensorInfo]) -> bool:
        """Tell whether `modules_to_save` names a tensor, whose tie then keeps the base's values."""
        return self.changes(tensor, {}) and infos[tensor].shape == self._base.tensors[tensor].shape


def _match(name: str, among: Collection[str]) -> str | None:
    """Find a name, or the only one that differs from it by a prefix."""
    if name in among:
        return name
    ends = [n for n in among if n.endswith(f".{name}") or name.endswith(f".{n}")]
    return ends[0] if len(ends) == 1 else None


def _core(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "model")
