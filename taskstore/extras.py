"""Finds optional libraries; where one is missing, names its extra and the line that installs it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from taskstore.errors import MissingExtra

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Library:
    """What people call it, and the extra that brings it, with a GPU and without."""

    name: str
    extra: str
    without_gpu: str = ""


LIBRARIES: Mapping[str, Library] = {  # by the name that is imported
    "torch": Library("PyTorch", "torch"),
    "transformers": Library("transformers", "hf"),
    "accelerate": Library("accelerate", "hf"),
    "plotly": Library("plotly", "report"),
    "obstore": Library("obstore", "cloud"),
    "ray": Library("Ray", "ray"),
    "cma": Library("cma", "search"),
    "lm_eval": Library("lm-eval", "lm-eval"),
    "vllm": Library("vLLM", "serve", "serve-cpu"),
}
WITH_TORCH = (
    "torch",
    "hf",
    "lm-eval",
    "serve-cpu",
)  # extras that bring it; vLLM for a GPU names its build


def need(what: str, *libraries: str) -> Any:
    """Import some of LIBRARIES, the last first, and return the first; raises MissingExtra.

    Name first the library whose extra brings the others.
    """
    for library in libraries:
        if not _there(library):
            raise missing(what, library)
    return [_imported(what, library) for library in reversed(libraries)][-1]


def lacking(error: ModuleNotFoundError, what: str) -> MissingExtra | None:
    """Return what to raise instead of an import's error; None if none of LIBRARIES is missing."""
    library = (error.name or "").partition(".")[0]
    return missing(what, library) if library in LIBRARIES else None


def missing(what: str, library: str) -> MissingExtra:
    """Return the error for a library that is not there."""
    known = LIBRARIES[library]
    extra = known.extra if has_gpu() else known.without_gpu or known.extra
    return MissingExtra(f"{what} needs {known.name}, the extra {extra}: {install_line(extra)}")


def install_line(extra: str) -> str:
    """Return the line that adds an extra to this installation, with the tool that made it."""
    prefix = Path(sys.prefix)
    cpu = extra in WITH_TORCH and not _there("torch") and is_cpu_build_wanted()
    if (prefix / "pipx_metadata.json").is_file():
        index = [f"--pip-args=--extra-index-url {CPU_INDEX}"] if cpu else []
        return shlex.join(["pipx", "install", "--force", *index, *_source(_with(extra))])
    backend = ["--torch-backend", "cpu"] if cpu else []
    if (prefix / "uv-receipt.toml").is_file():
        return shlex.join(["uv", "tool", "install", *backend, *_source(_with(extra))])
    if "archive-v" in str(prefix) or "environments-v" in str(prefix):  # of uvx, in uv's cache
        again = sys.argv[1:] if Path(sys.argv[0]).name == "taskstore" else ["..."]
        source = _source(_with(extra))[-1]
        return shlex.join(["uvx", *backend, "--from", source, "taskstore", *again])
    if find_spec("pip") is None and shutil.which("uv"):
        python = ["--python", sys.executable]
        return shlex.join(["uv", "pip", "install", *python, *backend, *_source(extra)])
    here = shutil.which("pip")
    own = here is not None and Path(here).parent == Path(sys.executable).parent
    pip = ["pip"] if own else [sys.executable, "-m", "pip"]
    index = ["--extra-index-url", CPU_INDEX] if cpu else []
    return shlex.join([*pip, "install", *index, *_source(extra)])


def has_gpu() -> bool:
    """Whether the system has a GPU of NVIDIA or AMD; asked without PyTorch."""
    devices = any(Path(f"/dev/{name}").exists() for name in ("nvidiactl", "kfd"))
    return devices or shutil.which("nvidia-smi") is not None


def is_cpu_build_wanted() -> bool:
    """Whether PyTorch comes from its own index of builds for CPUs: on Linux, without a GPU.

    On other systems the usual index has such a build.
    """
    return sys.platform == "linux" and not has_gpu()


def _imported(what: str, library: str) -> Any:
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise lacking(error, what) or _broken(what, library, error) from None
    except (ImportError, OSError) as error:
        raise _broken(what, library, error) from None


def _broken(what: str, library: str, error: Exception) -> MissingExtra:
    known, said = LIBRARIES[library], " ".join(str(error).split())[:200]
    return MissingExtra(
        f"{what} needs {known.name}, which is installed and fails: {said}; "
        f"install it again: {install_line(known.extra)}"
    )


def _there(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ValueError:  # a module without a spec stands in for it
        return True


def _with(extra: str) -> str:
    """Return the extra after those that are there: a tool's environment is made anew."""
    there = {"hf": "transformers", "report": "plotly"}
    return ",".join([*(name for name, of in there.items() if _there(of) and name != extra), extra])


def _source(extras: str) -> list[str]:
    """Return the arguments of `install` for where this package came from, with extras."""
    try:
        text = distribution("taskstore").read_text("direct_url.json")
    except PackageNotFoundError:  # its sources are on the path
        text = json.dumps({"url": Path(__file__).parent.parent.as_uri(), "dir_info": {}})
    if text is None:
        return [f"taskstore[{extras}]"]
    origin = json.loads(text)
    url, version = origin["url"], origin.get("vcs_info")
    if version:
        revision = version.get("requested_revision") or version["commit_id"]
        return [f"taskstore[{extras}] @ {version['vcs']}+{url}@{revision}"]
    if not url.startswith("file:"):
        return [f"taskstore[{extras}] @ {url}"]
    editable = ["-e"] if origin.get("dir_info", {}).get("editable") else []
    return [*editable, f"{unquote(urlsplit(url).path)}[{extras}]"]
