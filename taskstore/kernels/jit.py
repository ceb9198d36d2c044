"""How taskstore compiles its loops: numba, cached on disk, without the GIL, strict IEEE.

A loop's cached code is compiled anew when its own file changes, not when a function of another file
changes that it calls: then delete the `__pycache__` folders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile at first call per argument types; `fastmath` stays off, so results are exact."""
    return _compiled(function, inline="never")


def inlined(function: F) -> F:
    """`jit` for a piece of several loops over slices of arrays; each is compiled with its own copy.

    A call in its place keeps the compiler from vectorising what is behind it.
    """
    return _compiled(function, inline="always")


def _compiled(function: F, inline: str) -> F:
    try:
        compiled = numba.njit(nogil=True, cache=True, fastmath=False, inline=inline)(function)
    except RuntimeError:  # numba finds no writable folder for its cache
        compiled = numba.njit(nogil=True, cache=False, fastmath=False, inline=inline)(function)
    return cast(F, compiled)
