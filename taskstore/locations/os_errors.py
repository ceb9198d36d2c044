"""Say in one line what the system could not write."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from taskstore.errors import OutputError, TaskstoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def clear(error: OSError, path: Path) -> TaskstoreError:
    """Return what an error of the system, while `path` was written, means to a user."""
    where = path.parent
    if isinstance(error, TaskstoreError):  # it says so itself
        return error
    if error.errno in FULL:
        free = shutil.disk_usage(where).free / 2**20
        return OutputError(
            f"no space left on the disk of {where} ({free:.0f} MiB free); nothing was kept, "
            "free some space or write elsewhere"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        named = Path(error.filename).parent if isinstance(error.filename, str) else where
        return OutputError(f"{named} cannot be written: {error.strerror}")
    if error.errno == errno.EBUSY:
        return OutputError(
            f"{path} cannot be renamed: it is a mount point, or in use; name another"
        )
    return OutputError(f"writing {error.filename or path} failed: {error.strerror}")
