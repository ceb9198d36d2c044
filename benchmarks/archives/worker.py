"""One package codes a fine-tune and decodes it: `python worker.py JSON`, in its environment.

What it stores goes into the folder `stored`, what comes back into `back`, as safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Given = dict[str, Any]


def zipnn(given: Given) -> None:
    """Its class, file by file; with a type of delta, given the base's file of the same name."""
    from zipnn import ZipNN

    for path in sorted(Path(given["task"]).glob("*.safetensors")):
        settings = {"input_format": "byte", "bytearray_dtype": given["torch_dtype"]}
        settings |= given["options"]
        other = {}
        if given["options"]:
            other["delta_second_data"] = bytearray(Path(given["base"], path.name).read_bytes())
        coded = ZipNN(**settings).compress(bytearray(path.read_bytes()), **other)
        Path(given["stored"], path.name + ".znn").write_bytes(coded)
        Path(given["back"], path.name).write_bytes(ZipNN(**settings).decompress(coded, **other))


def deltatensors(given: Given) -> None:
    """Its quick start, where `strategy` is int4; the function itself says sparse, sparsity 0.9."""
    import deltatensors
    from safetensors.numpy import save_file

    path = str(Path(given["stored"], "task.wdelta"))
    deltatensors.save_delta_from_paths(path, given["task"], given["base"], **given["options"])
    weights = deltatensors.load_delta_from_paths(path, given["base"])
    save_file(weights, Path(given["back"], "model.safetensors"))


def sparse_llm(given: Given) -> None:
    """What it calls lossless, and `sparse compress` runs."""
    from core import compress_delta, reconstruct_from_delta

    compress_delta(given["base"], given["task"], given["stored"])
    reconstruct_from_delta(given["base"], given["stored"]).save_pretrained(given["back"])


TOOLS = {"zipnn": zipnn, "deltatensors": deltatensors, "sparse-llm": sparse_llm}

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    TOOLS[given["tool"]](given)
