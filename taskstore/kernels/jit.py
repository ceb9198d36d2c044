"""How taskstore compiles its loops: numba, cached on disk, without the GIL, strict IEEE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile at first call per argument types; `fastmath` stays off, so results are exact."""
    try:
        compiled = numba.njit(nogil=True, cache=True, fastmath=False)(function)
    except RuntimeError:  # numba finds no writable folder for its cache
        compiled = numba.njit(nogil=True, cache=False, fastmath=False)(function)
    return cast(F, compiled)
