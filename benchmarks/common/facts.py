"""What the figures hold for: models, machine, versions, flags, and how it was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common import envs
from benchmarks.common.experiment import Experiment
from benchmarks.common.sides import MERGEKIT_FLAGS

LIBRARIES = ("taskstore", "numpy", "zstandard")
GIB = 1 << 30


def of(experiment: Experiment) -> dict[str, Any]:
    sides = experiment.sides
    family = sides.family
    tools = [tool for tool in experiment.tools if tool != "tar"]
    return {
        "parameters": family.parameters,
        "dtype": family.dtype,
        "tasks": list(family.tasks),
        "input_bytes": family.nbytes,
        "repeat": experiment.repeat,
        "jobs": sides.jobs,
        "cache_pack": sides.cache.state,
        "cache_unpack": experiment.unpack_cache.state,
        "mergekit_flags": list(MERGEKIT_FLAGS) if "mergekit" in tools else [],
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": experiment.load_before,
        "versions": {name: version(name) for name in LIBRARIES}
        | {tool: envs.version_of(tool) for tool in tools},
    }


def title(about: Mapping[str, Any]) -> str:
    return (
        f"{len(about['tasks'])} fine-tunes and their base, {about['parameters'] / 1e6:,.0f}M "
        f"parameters each, {about['dtype']}, {about['input_bytes'] / 1e9:.2f} GB in all"
    )


def caption(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['memory_bytes'] / GIB:.0f} GiB, "
        f"{about['jobs']} threads, load before {about['load_before']:.1f}; "
        f"Python {about['python']}, {versions}.",
        f"Medians of {about['repeat']}; sizes once. Page cache {about['cache_pack']} for inputs, "
        f"{about['cache_unpack']} for unpack and copy.",
        "Peak: the process's largest resident set, imports and mapped files too.",
    ]
    if about["mergekit_flags"]:
        flags = " ".join(about["mergekit_flags"])
        lines.append(
            f"mergekit: task_arithmetic, weights 1, {flags}, and --num-threads as it is faster, "
            "1 or all; its start-up is that of --help."
        )
    return "\n".join(lines)


def _processor() -> str:
    """Its name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
