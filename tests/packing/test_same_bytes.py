"""Equal input gives equal bytes: stores of the example family, byte for byte as once written down.

Compressed bytes depend on the version of zstd; under another one than the digests were made with,
the tests skip and say so. Rests below two bits are in none: their factors depend on the machine's
linear algebra. `python -m tests.packing.test_same_bytes` prints the digests.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

import taskstore
from taskstore import PackOptions
from tests.support import ROOT

FAMILY = ROOT / "examples" / "family"
TASKS = ("english", "german", "roman", "spanish")
EXPECTED = Path(__file__).parent / "same_bytes.json"
CASES: Mapping[str, PackOptions] = {
    "mask": PackOptions(tiers="mask"),
    "mask-sum": PackOptions(method="sum", lam=0.4),
    "mask-ties-archive": PackOptions(method="ties", level="archive"),
    "rest": PackOptions(tiers="rest", residuals={"roman": 2.6}),
    "mask,rest,exact": PackOptions(method="sum", tiers="mask,rest,exact"),
    "exact": PackOptions(tiers="exact"),
    "exact-archive": PackOptions(tiers="exact", level="archive"),
    "rest-reference": PackOptions(tiers="rest", base="reference", shard_bytes=200_000),
    "mask-chunks": PackOptions(method="sum", chunk=4096, jobs=3),
}


def digest(case: str, target: Path) -> str:
    """Digest a store's files, their names, and its manifest without writer and base's path."""
    taskstore.pack(FAMILY / "base", {task: FAMILY / task for task in TASKS}, target, CASES[case])
    manifest = json.loads((target / "taskstore.json").read_text())
    for changing in (manifest, manifest["base"]):
        for member in ("writer", "source", "checksum"):
            changing.pop(member, None)
    manifest["files"].pop("README.md", None)  # names the writer too
    seen = blake3(json.dumps(manifest, sort_keys=True).encode())
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.name not in ("taskstore.json", "README.md"):
            seen.update(path.relative_to(target).as_posix().encode() + b"\0" + path.read_bytes())
    return str(seen.hexdigest())


@pytest.mark.parametrize("case", CASES)
def test_a_store_has_the_bytes_that_were_written_down(case: str, tmp_path: Path) -> None:
    expected = json.loads(EXPECTED.read_text())
    made_with, here = expected["zstd"], list(zstandard.ZSTD_VERSION)
    if made_with != here:
        pytest.skip(f"digests are of zstd {made_with}, this is {here}")
    assert digest(case, tmp_path / "store") == expected[case]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {case: digest(case, Path(folder) / case) for case in CASES}
    print(json.dumps({"zstd": zstandard.ZSTD_VERSION, **found}, indent=2))
