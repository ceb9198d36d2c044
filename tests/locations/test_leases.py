"""A reader's lease ends quietly, whatever is still there of the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_lease_that_outlives_its_module_says_nothing(tmp_path: Path) -> None:
    """At its exit the interpreter clears the names of modules before it collects what is left."""
    (tmp_path / "manifest").write_bytes(b"{}")
    code = """
import sys
from pathlib import Path
from taskstore.locations import leases
folder = Path(sys.argv[1])
lease, _ = leases.take(folder / "manifest", 10, folder)
fd = lease._fd
vars(leases).update(dict.fromkeys(vars(leases)))
del lease
import os
try:
    os.fstat(fd)
except OSError:
    print("closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("closed\n", "")
