"""Make a virtual environment with taskstore in it, and print the path of its Python.

    python tools/setup_env.py            .venv: all that the gates need, vLLM's CPU build included
    python tools/setup_env.py --demo     .venv-demo: the library and transformers (or .venv, if it
                                         is complete)

The one thing that can go badly wrong is torch: on Linux, pip may pick a build for CUDA, several
gigabytes, for a machine without a GPU. So the script asks pip first what it would install, and
refuses such a build. A second run installs nothing until the dependencies in pyproject.toml change,
and compiles the loops of taskstore/native where their sources did.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
COMPILING = ("cmake>=3.26", "ninja>=1.11")  # beside what pyproject.toml's build-system requires
CUDA = ("nvidia-", "nvidia_", "cuda-", "cuda_", "triton")
WAY_OUT = """\
pip would install a CUDA build of torch ({count} packages, {some}) and this machine has no GPU.
Point pip at PyTorch's index of CPU wheels (PyTorch's install page names it), for example with
  PIP_EXTRA_INDEX_URL=<that index> make {target}
or say that you want it: TASKSTORE_ALLOW_CUDA=1 make {target}"""


@dataclass(frozen=True)
class Environment:
    """A folder, the extra of pyproject.toml that it gets, and what to tell who waits for it."""

    name: str
    extra: str
    target: str
    takes: str

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.folder / "taskstore-setup"

    def is_complete(self) -> bool:
        return self.stamp.exists() and self.stamp.read_text() == wanted()


FULL = Environment(".venv", "dev", "test", "about five minutes, after a download of 1 GB")
DEMO = Environment(".venv-demo", "hf", "demo", "about a minute, after a download of 350 MB")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit("taskstore needs Python 3.11 or newer")
    parser = argparse.ArgumentParser(description="Make an environment, print its Python's path.")
    parser.add_argument("--demo", action="store_true", help="only what the demo needs")
    print(ready(demo=parser.parse_args().demo).python)


def ready(demo: bool) -> Environment:
    """The environment asked for, made where it is missing or out of date."""
    if demo and FULL.is_complete():
        return FULL
    chosen = DEMO if demo else FULL
    if chosen.is_complete():
        compile_loops(str(chosen.python))
    else:
        make(chosen)
    return chosen


def make(environment: Environment) -> None:
    """Create the folder, install, and stamp it when all is there."""
    print(f"making {environment.name}: {environment.takes}", file=sys.stderr, flush=True)
    if not environment.python.exists():
        venv.create(environment.folder, with_pip=True)
    python = str(environment.python)
    refuse_cuda(python, environment.target)
    # Python compiles the few modules that the demo imports sooner than pip compiles all.
    lazily = ["--no-compile"] if environment is DEMO else []
    pip(python, "install", "-q", *lazily, *settings()["build-system"]["requires"], *COMPILING)
    ours = ("--no-build-isolation", "-e", f"{ROOT}[{environment.extra}]")  # compiles the loops, too
    pip(python, "install", "-q", *lazily, *ours, TORCH)
    if environment is FULL:
        drop_torchvision(python)
    environment.stamp.write_text(wanted())


def wanted() -> str:
    """A digest of what decides the environments' contents; settings of the gates do not."""
    found = settings()
    built = [found["build-system"], found["project"], found["tool"]["scikit-build"]]
    deciding = [*built, TORCH, COMPILING]
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def settings() -> dict[str, Any]:
    import tomllib  # not there before Python 3.11, which main() refuses with a sentence

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def compile_loops(python: str) -> None:
    """Compile what changed of taskstore/native; exit where that fails."""
    if subprocess.run([python, str(ROOT / "tools" / "build_native.py")]).returncode:
        sys.exit("see above")


def pip(python: str, *words: str) -> str:
    """Run pip and return its output; exit where it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"pip {' '.join(words[:3])} ... failed; see above")
    return done.stdout


def refuse_cuda(python: str, target: str) -> None:
    """Exit where installing torch would bring a CUDA build to a machine without a GPU."""
    if has_gpu() or os.environ.get("TASKSTORE_ALLOW_CUDA"):
        return
    report = pip(python, "install", "-q", "--dry-run", "--report", "-", TORCH)
    planned = [item["metadata"]["name"] for item in json.loads(report)["install"]]
    cuda = [name for name in planned if name.lower().startswith(CUDA)]
    if cuda:
        some = ", ".join(cuda[:3])
        sys.exit(WAY_OUT.format(count=len(cuda), some=some, target=target))


def drop_torchvision(python: str) -> None:
    """vLLM brings torchvision; where it does not fit this torch, text models go without it."""
    found = subprocess.run([python, "-c", "import torchvision"], stderr=subprocess.DEVNULL)
    if found.returncode:
        pip(python, "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec")


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


if __name__ == "__main__":
    main()
