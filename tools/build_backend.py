"""The build backend: scikit-build-core's, with an editable install that is a plain .pth file.

scikit-build-core's own editable install puts a hook before the import path. The hook wins over
PYTHONPATH, so a second checkout could not be tested with the first one's environment. Here the
loops are compiled into the tree, and a .pth file names the three folders of sources.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import build_native
from scikit_build_core.build import (
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

FOLDERS = (".", "cli", "serving")


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Compile the loops into the tree, and write a wheel that only points to it."""
    build_native.build()
    with tempfile.TemporaryDirectory() as scratch:
        home = metadata_directory or scratch
        if metadata_directory is None:
            home = str(Path(scratch, prepare_metadata_for_build_editable(scratch, config_settings)))
        metadata = Path(home)
        if metadata.suffix != ".dist-info":
            (metadata,) = metadata.glob("*.dist-info")
        name = metadata.name.removesuffix(".dist-info")
        tag = "py3-none-any"
        lines = "".join(f"{(build_native.ROOT / folder).resolve()}\n" for folder in FOLDERS)
        members = {f"_{name.partition('-')[0]}.pth": lines.encode()}
        for path in sorted(metadata.rglob("*")):
            if path.is_file() and path.name not in ("RECORD", "WHEEL"):
                inside = path.relative_to(metadata).as_posix()
                members[f"{metadata.name}/{inside}"] = path.read_bytes()
        wheel = f"Wheel-Version: 1.0\nGenerator: taskstore\nRoot-Is-Purelib: true\nTag: {tag}\n"
        members[f"{metadata.name}/WHEEL"] = wheel.encode()
    members[f"{metadata.name}/RECORD"] = _record(members, f"{metadata.name}/RECORD").encode()
    target = Path(wheel_directory, f"{name}-{tag}.whl")
    with zipfile.ZipFile(target, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return target.name


def _record(members: dict[str, bytes], own: str) -> str:
    """A line with digest and size for each file, and one with neither for the record."""
    lines = []
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own},,\n"])
