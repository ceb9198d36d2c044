"""Compile the loops of taskstore/native into this tree, for the Python that runs this script.

    python tools/build_native.py            what changed, quietly
    python tools/build_native.py --all      everything
    python tools/build_native.py --folder   nothing; where the objects lie

It needs a C++ compiler, and of the extra `dev` cmake, ninja and nanobind. Objects lie in
build/native, the modules beside their Python. Nothing happens where no source changed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "taskstore" / "native"
FOLDER = ROOT.joinpath(
    "build", "native", sysconfig.get_platform(), str(sys.implementation.cache_tag)
)
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the loops of taskstore/native.")
    parser.add_argument("--all", action="store_true", help="everything anew")
    parser.add_argument("--folder", action="store_true", help="print where the objects lie")
    words = parser.parse_args()
    if words.folder:
        print(FOLDER)
    else:
        build(anew=words.all)


def build(anew: bool = False) -> None:
    """Compile what changed; exit with the compiler's words where that fails."""
    if anew:
        shutil.rmtree(FOLDER, ignore_errors=True)
    digest, stamp = _digest(), FOLDER / "built"
    if stamp.exists() and stamp.read_text() == digest and any(TARGET.glob(f"*{SUFFIX}")):
        return
    if importlib.util.find_spec("nanobind") is None:
        sys.exit("nanobind is missing: pip install nanobind cmake ninja")
    cmake, ninja = _program("cmake"), _program("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    python = [f"-DPython_EXECUTABLE={sys.executable}"]
    _run(cmake, "-S", str(ROOT), "-B", str(FOLDER), *generator, *python)
    _run(cmake, "--build", str(FOLDER))
    _run(cmake, "--install", str(FOLDER), "--prefix", str(ROOT))
    stamp.write_text(digest)


def _digest() -> str:
    """Of the sources, and of the Python that they are compiled for."""
    found = hashlib.sha256(sys.executable.encode())
    for path in sorted([ROOT / "CMakeLists.txt", *TARGET.rglob("*.[ch]pp")]):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def _program(name: str) -> str:
    """The path of cmake or ninja: from the index beside this Python, or the machine's."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which(name, path=beside) or sys.exit(f"{name} is missing: pip install {name}")


def _run(*words: str) -> None:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"the loops of taskstore/native are not compiled: {' '.join(words[:3])} failed")


if __name__ == "__main__":
    main()
