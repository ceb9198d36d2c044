"""What a method's matrices take of the memory given, said before anything is merged."""

from __future__ import annotations

from collections.abc import Iterable

from taskstore.errors import OptionError
from taskstore.merging.methods.api import Method

KEPT = 2  # merged matrices that wait for their blocks
LEAST = 128 << 20  # what blocks and all else take


def reserved(
    method: Method,
    name: str,
    tensors: Iterable[tuple[str, tuple[int, ...], int]],
    max_memory: int,
) -> int:
    """Bytes of the largest matrix that `method` wants whole, 0 if it wants none.

    `tensors` are (name, shape, tasks). Raises OptionError with the size where it does not fit into
    `max_memory`.
    """
    most, where = 0, ("", (0, 0))
    for tensor, shape, tasks in tensors:
        if method.wants_whole(tensor, shape):
            rows, columns = shape
            matrix = KEPT * 4 * rows * columns
            size = matrix + method.matrix_bytes((rows, columns), tasks)
            if size > most:
                most, where = size, (tensor, (rows, columns))
    if most + LEAST > max_memory and most:
        tensor, (rows, columns) = where
        raise OptionError(
            f"method {name!r} takes {tensor!r} ({rows} x {columns}) whole and needs "
            f"{-(-most >> 20)} MiB for it; max-memory of {max_memory >> 20} MiB is too little, "
            f"{-(-(most + LEAST) >> 20)} MiB is enough"
        )
    return most
