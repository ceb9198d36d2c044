"""zipnn on weight files, run with its own environment's Python: `python zipnn_worker.py JSON`.

Files go in by pieces, for a whole shard and its result would need several times its size; zipnn
codes chunks of 256 KiB on their own, so pieces cost a header of a few bytes each.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from zipnn import ZipNN

PIECE = 256 << 20


def main(given: dict[str, Any]) -> dict[str, Any]:
    coder = ZipNN(input_format="byte", bytearray_dtype=given["torch_dtype"], threads=given["jobs"])
    files: dict[str, int] = {}
    began = time.perf_counter()
    with open(given["target"], "wb") as out:
        for path in given["files"]:
            before = out.tell()
            with open(path, "rb") as file:
                while piece := file.read(PIECE):
                    out.write(coder.compress(bytearray(piece)))
            files[path] = out.tell() - before
    return {"seconds": time.perf_counter() - began, "files": files}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
