"""Check a config.json of strangers before transformers acts on it, and keep it off the network."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskstore.errors import InputError
from taskstore.format import json_text

# transformers takes another name for a repository of kernels, and loads and runs it.
LOCAL = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
LOCAL_EXPERTS = ("eager", "batched_mm", "grouped_mm")
MAX_COUNT = 10_000  # of layers and the like, which transformers loops over
_COUNT = re.compile(r"(num|n)_.*(layers?|blocks?|experts?|stages?)|(n|num)_layers?|depths?")
_IMPLEMENTATION = re.compile(r"_*(attn|experts)_implementation(_internal)?")
CONFIG = "config.json"
_lock = threading.Lock()
_inside: list[bool] = []  # what it was before, of all that are offline now


def check(folder: Path, label: str) -> dict[str, Any]:
    """Return config.json; raise InputError where it is no object or asks for too much."""
    path = folder / CONFIG
    for beside in sorted(folder.iterdir()):  # transformers would wait for a pipe
        if beside.exists() and not beside.is_file() and not beside.is_dir():
            raise InputError(f"{beside}: it is not a regular file")
    try:
        settings = json_text.read(path, folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"the {path.name} of {label} cannot be read: {why}") from None
    if not isinstance(settings, dict):
        raise InputError(f"the {path.name} of {label} is no JSON object")
    for key, value in _members(settings):
        where = f"the {path.name} of {label} has {key[:40]!r}: {str(value)[:80]!r}"
        if _IMPLEMENTATION.fullmatch(key):
            known = (*LOCAL, None) if "attn" in key else (*LOCAL_EXPERTS, None)
            values = value.values() if isinstance(value, dict) else [value]
            if any(one not in known for one in values):
                raise InputError(f"{where}, code from elsewhere; load it with trust_remote_code")
        numbers = value if isinstance(value, list) else [value]
        if _COUNT.fullmatch(key) and any(type(n) is int and n > MAX_COUNT for n in numbers):
            raise InputError(f"{where}, more than {MAX_COUNT}")
    return settings


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every member of every object in a document."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield from inner.items()
        waiting += inner.values() if isinstance(inner, dict) else inner
        waiting = [one for one in waiting if isinstance(one, dict | list)]


@contextmanager
def offline() -> Iterator[None]:
    """Let no request to a hub out of this process meanwhile, whatever a config names."""
    from huggingface_hub import constants

    with _lock:
        _inside.append(constants.HF_HUB_OFFLINE)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with _lock:
            last = _inside.pop()  # of the first: the others found it offline
            if not _inside:
                constants.HF_HUB_OFFLINE = last
