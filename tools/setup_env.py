"""Make a virtual environment with taskstore and all that its tests need.

    python tools/setup_env.py [--venv .venv]

The one thing that can go badly wrong is torch: on Linux, pip may pick a build for CUDA, several
gigabytes, for a machine without a GPU. So what pip would install is looked at first, and refused
where it is that. Run again after a change of pyproject.toml; it does nothing when all is there.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
CUDA = ("nvidia-", "nvidia_", "cuda-", "cuda_", "triton")
WAY_OUT = """\
pip would install a CUDA build of torch ({count} packages, {some}) and this machine has no GPU.
Point pip at PyTorch's index of CPU wheels (PyTorch's install page names it), for example with
  PIP_EXTRA_INDEX_URL=<that index> make test
or say that you want it: TASKSTORE_ALLOW_CUDA=1 make test"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    folder: Path = parser.parse_args().venv
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit("taskstore needs Python 3.11 or newer")
    stamp = folder / "taskstore-setup"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + TORCH.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    refuse_cuda(python)
    pip(python, "install", "-q", TORCH)
    pip(python, "install", "-q", "-e", f"{ROOT}[dev]", TORCH)
    drop_torchvision(python)
    stamp.write_text(wanted)


def pip(python: str, *words: str) -> str:
    """Run pip; its warnings about optional package sources are noise."""
    done = subprocess.run([python, "-m", "pip", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"pip {' '.join(words[:3])} ... failed; see above")
    return done.stdout


def refuse_cuda(python: str) -> None:
    """Exit where installing torch would bring a CUDA build to a machine without a GPU."""
    if has_gpu() or os.environ.get("TASKSTORE_ALLOW_CUDA"):
        return
    report = pip(python, "install", "-q", "--dry-run", "--report", "-", TORCH)
    planned = [item["metadata"]["name"] for item in json.loads(report)["install"]]
    cuda = [name for name in planned if name.lower().startswith(CUDA)]
    if cuda:
        sys.exit(WAY_OUT.format(count=len(cuda), some=", ".join(cuda[:3])))


def drop_torchvision(python: str) -> None:
    """vLLM brings torchvision; where it does not fit this torch, text models go without it."""
    found = subprocess.run([python, "-c", "import torchvision"], stderr=subprocess.DEVNULL)
    if found.returncode:
        pip(python, "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec")


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


if __name__ == "__main__":
    main()
