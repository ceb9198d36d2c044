"""The sides that run in the library's own Python: `python worker.py ACTION JSON`.

Each prints one line of JSON: seconds of the work alone, and for taskstore the peak memory above
what was resident once its modules were imported.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUFFER = 8 << 20
COPY = 1 << 20

Given = dict[str, Any]


def pack(given: Given) -> Given:
    """taskstore.pack()"""
    import taskstore
    import taskstore.packing.driver

    before = _resident("VmRSS")
    # as mergekit adds up
    options = taskstore.PackOptions(tiers="mask", jobs=given["jobs"], method="sum")
    began = time.perf_counter()
    report = taskstore.pack(given["base"], given["tasks"], given["target"], options)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "above_imports": _resident("VmHWM") - before,
        "imports": before,
        "summary_ratio": report.summary.ratio,
        "bits_per_parameter": report.summary.bits_per_parameter,
    }


def measuring(given: Given) -> Given:
    """taskstore.pack() with its defaults, in turn with and without measuring what is kept.

    Seconds of the processor, the least of each, since other work beside it only adds; the
    figures of the runs without are void.
    """
    import numpy as np

    import taskstore
    from taskstore.kernels import fused
    from taskstore.merging import similarity
    from taskstore.packing import block_coder, mask_coder

    places = [
        *((module, name) for module in (block_coder, mask_coder) for name in vars(module)
          if name.startswith("four_sums")),
        (similarity, "of_vectors"), (similarity, "of_weights"), (similarity, "of_bf16"),
        (fused, "sum_tall_bf16"),
    ]  # fmt: skip
    measured = [getattr(module, name) for module, name in places]

    def void(name: str) -> Callable[..., Any]:
        sums = np.ones(4)
        if name == "sum_tall_bf16":  # sums of a block's first strips, if it has any
            of = measured[-1]
            return lambda theta_SN, w0_N, lam_S, _: of(theta_SN, w0_N, lam_S, 1024)
        return (lambda *_: sums) if name.startswith("four") else lambda of, *_: np.eye(len(of))

    seconds: dict[bool, list[float]] = {True: [], False: []}
    for i in range(2 * given["repeat"] + 1):
        on = i % 2 == 0  # the first is not counted
        for (module, name), real in zip(places, measured, strict=True):
            setattr(module, name, real if on else void(name))
        shutil.rmtree(given["target"], ignore_errors=True)
        began = time.process_time()
        options = taskstore.PackOptions(jobs=given["jobs"], tiers=given["tiers"])
        taskstore.pack(given["base"], given["tasks"], given["target"], options)
        seconds[on] += [time.process_time() - began] if i else []
    return {"with": min(seconds[True]), "without": min(seconds[False])}


def merge(given: Given) -> Given:
    """taskstore.merging.merge()"""
    import taskstore.merging

    before = _resident("VmRSS")
    options = taskstore.merging.MergeOptions(
        method=given["method"], method_options=given["options"], jobs=given["jobs"]
    )
    began = time.perf_counter()
    taskstore.merging.merge(given["base"], given["models"], given["target"], options)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "above_imports": _resident("VmHWM") - before,
        "imports": before,
    }


def unpack(given: Given) -> Given:
    """taskstore.open(store).unpack()"""
    import taskstore
    import taskstore.store.rebuild
    import taskstore.store.store
    import taskstore.store.unpack

    before = _resident("VmRSS")
    began = time.perf_counter()
    store = taskstore.open(given["store"])
    store.unpack(given["task"], given["target"], jobs=given["jobs"])
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "above_imports": _resident("VmHWM") - before,
        "imports": before,
    }


def read(given: Given) -> Given:
    """Every byte of the files, into one buffer."""
    buffer = memoryview(bytearray(BUFFER))
    began = time.perf_counter()
    for path in given["files"]:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return {"seconds": time.perf_counter() - began}


def copy(given: Given) -> Given:
    """A folder, file by file; with `sync`, every file and folder is flushed to the disk."""
    began = time.perf_counter()
    target = Path(shutil.copytree(given["source"], given["target"], copy_function=shutil.copyfile))
    if given["sync"]:
        for path in (*target.rglob("*"), target, target.parent):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
    return {"seconds": time.perf_counter() - began}


def tar(given: Given) -> Given:
    """All folders into one tar, through zstd."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=given["level"], threads=given["jobs"])
    began = time.perf_counter()
    with (
        open(given["target"], "wb") as file,
        compressor.stream_writer(file) as stream,
        tarfile.open(  # type: ignore[call-overload]  # it does take a copybufsize
            mode="w|", fileobj=stream, bufsize=COPY, copybufsize=COPY
        ) as archive,
    ):
        for folder in given["folders"]:
            archive.add(folder, Path(folder).name)
    return {
        "seconds": time.perf_counter() - began,
        "bytes": os.path.getsize(given["target"]),
    }


def _resident(field: str) -> int:
    """Bytes; VmRSS is now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise OSError(f"this system does not report {field}")


def load(given: Given) -> Given:
    """taskstore.open(store).state_dict()"""
    import torch  # noqa: F401 - imported before the clock starts

    import taskstore

    store = taskstore.open(given["store"])
    began = time.perf_counter()
    store.state_dict(given["task"], jobs=given["jobs"])
    return {"seconds": time.perf_counter() - began}


def load_file(given: Given) -> Given:
    """safetensors' load_file of a task's files, and a byte of every page of them."""
    import torch
    from safetensors.torch import load_file

    began = time.perf_counter()
    for path in given["files"]:
        for tensor in load_file(path).values():
            tensor.view(-1).view(dtype=torch.uint8)[::4096].sum()
    return {"seconds": time.perf_counter() - began}


def add(given: Given) -> Given:
    """taskstore.add() of one fine-tune to a copy of a store."""
    import taskstore

    shutil.copytree(given["store"], given["target"])
    options = taskstore.AddOptions(jobs=given["jobs"])
    began = time.perf_counter()
    taskstore.add(given["target"], {"one-more": given["model"]}, options)
    return {"seconds": time.perf_counter() - began}


ACTIONS: dict[str, Callable[[Given], Given]] = {
    "pack": pack,
    "measuring": measuring,
    "merge": merge,
    "unpack": unpack,
    "read": read,
    "copy": copy,
    "load": load,
    "load_file": load_file,
    "add": add,
    "tar": tar,
}

if __name__ == "__main__":
    print(json.dumps(ACTIONS[sys.argv[1]](json.loads(sys.argv[2]))))
