"""The kernels of mixed steps, compiled for compute capability 9.0, which needs no card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture(autouse=True, scope="module")
def level() -> str:
    """No compiled loop is under test: once is enough."""
    return ""


_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from taskstore.kernels.mixed import tiles

POINTERS = {"masks": "i64", "chunks": "i64", "factors": "i64", "which": "i64", "slots": "i32",
            "order": "i32", "bias": "fp32", "sums": "fp32"}
EVEN = ("columns", "share", "rows", "y_stride")
WORDS = {"bf16": "i16", "fp16": "i16", "fp32": "i32"}
FLOATS = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}

found = {}
for label, name, kind, constants in json.loads(sys.argv[1]):
    kernel = getattr(tiles, name)
    kinds = {"x": kind, **dict.fromkeys(("w0", "d", "y", "out"), WORDS[kind]), **POINTERS}
    signature = {n: "*" + kinds[n] if n in kinds else "i32" for n in kernel.arg_names}
    constants = {"FLOAT": FLOATS[kind], **constants}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names)
               if signature[n] != "constexpr" and (n in kinds or n in EVEN)}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    found[label] = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print(json.dumps(found))
"""
FLAGS = {"HAS_D": True, "WHOLE": True, "HAS_BIAS": False, "SPLIT": True, "RESTS": False, "RANK": 0}
FEW = {"BLOCK_M": 16, "BLOCK_R": 64, "BLOCK_C": 128}
MANY = {"BLOCK_M": 64, "BLOCK_R": 64, "BLOCK_C": 64}
WIDE = {"BLOCK_M": 16, "BLOCK_R": 64, "BLOCK_C": 32}
KERNELS = [
    ("few", "multiply", "bf16", FLAGS | FEW),
    ("many", "multiply", "fp16", FLAGS | MANY | {"SPLIT": False, "HAS_BIAS": True}),
    ("wide", "multiply", "fp32", FLAGS | WIDE),
    ("rests", "multiply", "bf16", FLAGS | WIDE | {"RESTS": True, "RANK": 32}),
    ("odd", "multiply", "bf16", FLAGS | WIDE | {"WHOLE": False, "columns": 1, "count": 1}),
    ("take", "take", "bf16", {"HAS_D": True, "RESTS": True, "BLOCK": 1024}),
    ("vector", "take", "fp32", {"HAS_D": True, "RESTS": True, "BLOCK": 1024, "columns": 1}),
    ("parts", "add_parts", "bf16", {"HAS_BIAS": True, "BLOCK_R": 256}),
]


@pytest.mark.slow
def test_hopper_code_reads_weights_in_16_bytes_and_multiplies_on_tensor_cores() -> None:
    """No float32 is flushed to zero, which would change denormal weights; no atomics."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, json.dumps(KERNELS)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    codes: dict[str, str] = json.loads(done.stdout)
    assert all(".ftz" not in code and ".local" not in code for code in codes.values())
    assert not any("atom" in code or "red.global" in code for code in codes.values())
    for label, masks in (("few", 8), ("many", 4), ("wide", 2)):
        code = codes[label]
        # weights of W0 and D: bytes a tile, in accesses of 128 threads and 16 bytes
        wide = len(re.findall(r"ld\.global\.v4\.b32", code))
        assert wide >= 2 * masks, label
        assert len(re.findall(r"ld\.global\.b8", code)) == masks, label
        assert not re.findall(r"ld\.global\.(b16|v2)", code), label
        assert label == "wide" or "wgmma.mma_async" in code
    assert len(re.findall("wgmma.mma_async", codes["rests"])) >= 4  # the low-rank part's, too
