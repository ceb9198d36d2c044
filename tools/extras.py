"""Install the package with each extra in a fresh environment, and run its first command there.

    python tools/extras.py              the core, and every extra that this machine takes
    python tools/extras.py hf report    some; "core" is the one without

An environment lies in build/extras, is removed afterwards, and its size is printed: docs/install.md
has the figures, without the bytecode that pip compiles. Without a GPU torch is the build for CPUs,
of the version that tools/setup_env.py pins.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import setup_env

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "extras"
FAMILY = ROOT / "examples" / "family"
PACK = ("pack", FAMILY / "base", FAMILY / "german", FAMILY / "roman", "-o", "STORE")
LOAD = "import taskstore; print(type(taskstore.open('STORE').load_model('roman')).__name__)"


@dataclass(frozen=True)
class First:
    """The first command with an extra: of taskstore, or a line of Python; after `pack`."""

    command: tuple[object, ...] = ()
    line: str = ""
    needs_gpu: bool = False


FIRST = {
    "core": First(("verify", "STORE", "--deep")),
    "torch": First(("load", "STORE", "roman")),
    "hf": First(line=LOAD),
    "lm-eval": First(line="import lm_eval; print(lm_eval.__version__)"),
    "report": First(("report", "STORE", "-o", "PAGE")),
    "cloud": First(line="import obstore; print(obstore.__version__)"),
    "ray": First(line="import ray; print(ray.__version__)"),
    "search": First(line="import cma; print(cma.__version__)"),
    "all": First(line=LOAD),
    "serve-cpu": First(("serve", "STORE", "--print-command")),
    "serve": First(("serve", "STORE", "--print-command"), needs_gpu=True),
}


def main(words: list[str]) -> int:
    if unknown := [word for word in words if word not in FIRST]:
        sys.exit(f"there is no extra {unknown[0]!r}; there are {', '.join(FIRST)}")
    gpu = setup_env.has_gpu()
    failed = 0
    wheel = built()
    for extra in words or [name for name, first in FIRST.items() if gpu or not first.needs_gpu]:
        folder = FOLDER / extra
        try:
            said = run(extra, folder, wheel)
            print(f"{extra:10} {size(folder / 'venv') / 1e6:8,.0f} MB   {said}", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"{extra:10} failed: {error.stderr or error.stdout}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return failed


def built() -> Path:
    """Build the wheel, once for all extras, and return its path."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    done(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", FOLDER, ROOT)
    return next(FOLDER.glob("taskstore-*.whl"))


def run(extra: str, folder: Path, wheel: Path) -> str:
    """Install, pack the example family, run the first command; return its last line."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    source = [str(wheel) if extra == "core" else f"{wheel}[{extra}]"]
    if extra not in ("core", "report", "cloud", "ray", "search", "serve"):
        setup_env.refuse_cuda(str(python), "extras")
        source += [] if setup_env.has_gpu() else [setup_env.TORCH]
    done(python, "-m", "pip", "install", "-q", "--no-compile", *source)
    places = {"STORE": str(folder / "store"), "PAGE": str(folder / "page.html")}
    command, first = folder / "venv" / "bin" / "taskstore", FIRST[extra]
    done(command, *(places.get(str(word), word) for word in PACK))
    if first.line:
        return done(python, "-c", first.line.replace("STORE", places["STORE"]))
    return done(command, *(places.get(str(word), word) for word in first.command))


def done(*words: object) -> str:
    """Run a program; return the last line that it printed."""
    finished = subprocess.run([*map(str, words)], capture_output=True, text=True, check=True)
    return (finished.stdout.strip().splitlines() or [""])[-1][:100]


def size(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
