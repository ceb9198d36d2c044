"""Refuses vLLM options that do not go with a store, and says why.

They are looked for twice. Before vLLM is imported, which is slow, by name; and in what vLLM parsed,
where abbreviations and its configuration files can no longer hide them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import zip_longest

from taskstore.errors import InputError

_BEFORE = "give it before the --, it is an option of `taskstore serve`"
_OURS = "it is what makes vLLM serve a store"
_ADAPTERS = "tasks take the place of LoRA adapters here"
_QUANTIZED = "it computes weights of its own, which a swap cannot write"
_WHY = {
    **dict.fromkeys(("host", "port", "api-key", "served-model-name"), _BEFORE),
    **dict.fromkeys(("model", "model-tag"), "the model is the store"),
    "load-format": _OURS,
    "model-loader-extra-config": _OURS,
    "worker-cls": _OURS,
    "scheduler-cls": _OURS,
    "enable-lora": _ADAPTERS,
    "lora-modules": _ADAPTERS,
    "quantization": _QUANTIZED,
    "quantization-config": _QUANTIZED,
    "kv-transfer-config": "blocks of the KV cache would leave the engine without their task",
    "speculative-config": "a draft model is not in the store",
    "weight-transfer-config": "the weights are the store's",
    "enable-sleep-mode": "it gives away the memory that swaps write",
    "enable-eplb": "it moves weights that swaps write",
    "headless": "there would be no endpoint",
    "grpc": "tasks are served over HTTP alone",
    "uds": "the server listens on --host and --port",
    "data-parallel-size": "each engine would have weights and tasks of its own; start another "
    "server instead",
    "pipeline-parallel-size": "a task is swapped in all layers at once; --tensor-parallel-size "
    "shares a large model among devices",
}
_SHORT = {"q": "quantization", "pp": "pipeline-parallel-size",
          "dp": "data-parallel-size", "sc": "speculative-config"}  # fmt: skip
_COUNTS = ("data-parallel-size", "pipeline-parallel-size")


def check_words(words: Sequence[str]) -> None:
    """Raise InputError for an option that does not go with a store, or for a stray word."""
    if words and not words[0].startswith("-"):
        raise InputError(f"{words[0]!r} is no option; after the -- come options of vLLM")
    for name in sorted(option_names(words)):
        full = _SHORT.get(name, name)
        if full in _WHY and full not in _COUNTS:
            raise _refusal(full)


def check_parsed(parsed: Namespace, own: Namespace) -> None:
    """Raise InputError for such an option in what vLLM parsed.

    `own` is what it parses from our arguments alone.
    """
    for name in _WHY:
        dest = name.replace("-", "_")
        value = getattr(parsed, dest, None)
        if value != getattr(own, dest, None) and not (name in _COUNTS and value == 1):
            raise _refusal(name)


def _refusal(name: str) -> InputError:
    return InputError(f"vLLM's --{name} cannot be used with a store: {_WHY[name]}")


def option_names(words: Sequence[str]) -> set[str]:
    """Names of the options among vLLM's arguments: --a_b.c=d is a-b."""
    return {
        word.lstrip("-").split("=")[0].split(".")[0].replace("_", "-")
        for word in words
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit()
    }


def option_value(words: Sequence[str], *names: str) -> str | None:
    """The value of the last option of these names (`option_names`); None without one."""
    found = None
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if option_names([word]) & set(names):
            found = word.partition("=")[2] if "=" in word else following
    return found
