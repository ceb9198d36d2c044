"""Devices: the one that is meant, and what it has room for.

Room is asked for before anything is moved, so a model that does not fit is refused with the sum
and nothing is half done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from taskstore.errors import DeviceError, NotEnoughMemory

Device = str | int | torch.device
_CGROUP = Path("/sys/fs/cgroup")


def resolve(device: Device) -> torch.device:
    """The device with its index; raises DeviceError where this machine does not have it."""
    try:
        found = torch.device(device)
        if found.type == "cuda":
            return _cuda(found)
        torch.empty(0, device=found)
    except DeviceError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise DeviceError(f"no device {str(device)!r}: {str(error).splitlines()[0]}") from None
    if found.type == "meta":
        raise DeviceError("device 'meta' holds no weights; name a real one")
    return found


def _cuda(device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise DeviceError(f"no device {str(device)!r}: torch finds no CUDA device here; use 'cpu'")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= count:
        raise DeviceError(f"no device {str(device)!r}: there are {count}, cuda:0 to {count - 1}")
    return torch.device("cuda", index)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated there; None where nobody says.

    CUDA: what the driver has free and what torch's allocator holds unused. CPU: the kernel's
    estimate without swapping, and the limit of the control group.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_available(), _group_limit()) if limit is not None]
    return min(limits, default=None)


def require(device: torch.device, parts: Mapping[str, int], way_out: str) -> None:
    """Raise NotEnoughMemory unless there is room for all `parts` (name -> bytes)."""
    free = free_memory(device)
    if free is not None and sum(parts.values()) > free:
        raise NotEnoughMemory(str(device), parts, free, way_out)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable:")), None)


def _group_limit() -> int | None:
    """Limit of the control group less what cannot be reclaimed in it; None without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(x.split() for x in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
