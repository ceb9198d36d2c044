"""The other tools, each in a virtual environment of its own below benchmarks/.env/.

Made on demand with pip's own settings. What pip would install is resolved first; a build of torch
that brings NVIDIA's libraries is refused, for the benchmark needs a CPU and those are gigabytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".env"
_GPU = re.compile(r"nvidia-|cuda-|pytorch-triton|triton$")


class ToolError(Exception):
    """A tool cannot be installed; the text says why and what to do."""


def python_of(tool: str) -> Path:
    return ROOT / tool / "bin" / "python"


def version_of(tool: str) -> str:
    """What is installed."""
    code = f"from importlib.metadata import version; print(version({tool!r}))"
    done = subprocess.run([python_of(tool), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def ensure(tool: str, *beside: str) -> None:
    """Install `tool` from the package index unless it is there; raises ToolError.

    `beside` is what it needs and does not ask for.
    """
    done = ROOT / tool / "installed"
    if done.is_file():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", ROOT / tool], check=True)
    # The library's own torch: both sides compute with the same one, and where that is a CPU
    # build, pip finds it by its number alone.
    wanted = [tool, *beside, "torch==" + version("torch").partition("+")[0]]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip(tool, "--dry-run", "--report", str(report), *wanted)
        planned = json.loads(report.read_text())["install"]
    found = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in planned}
    gpu = sorted(name for name in found if _GPU.match(name)) + [
        f"torch {version}"
        for name, version in found.items()
        if name == "torch" and "+cu" in version
    ]
    if gpu:
        raise ToolError(
            f"{tool} is not installed: pip would bring {', '.join(gpu)}. Let pip find a CPU build "
            "of torch (PIP_INDEX_URL or PIP_EXTRA_INDEX_URL), or leave the tool out with "
            f"--skip {tool}"
        )
    _pip(tool, *(f"{name}=={version}" for name, version in found.items()))
    done.write_text("".join(f"{name}=={version}\n" for name, version in sorted(found.items())))


def _pip(tool: str, *arguments: str) -> None:
    command = [str(python_of(tool)), "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ToolError(f"{tool} is not installed: {' '.join(lines) or done.stderr.strip()}")
