"""The swap's kernel, compiled for compute capability 9.0, which needs no card."""

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
import json, warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from taskstore.kernels import triton as ours

found = []
for word in ("i16", "i32"):
    signature = {"a": "*u8", "b": "*u8", "d": "*" + word, "w": "*" + word}
    signature |= dict.fromkeys(("first", "rows", "n"), "i32")
    signature |= dict.fromkeys(("BOUNDS", "ROWS"), "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(4)}
    source = ASTSource(
        fn=ours._swap, signature=signature, attrs=aligned,
        constexprs={"BOUNDS": False, "ROWS": ours.ROWS},
    )
    found.append(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_hopper_code_moves_weights_in_16_bytes() -> None:
    """Of 16 and 32 bits: no access to W is narrower."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for code in json.loads(done.stdout):
        accesses = set(re.findall(r"(?:ld|st)\.global[.\w]*", code))
        assert accesses == {"ld.global.b8", "ld.global.v4.b32", "st.global.v4.b32"}
