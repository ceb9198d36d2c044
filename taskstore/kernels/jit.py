"""How taskstore compiles its loops: numba, cached on disk, without the GIL, strict IEEE.

numba is imported when the first loop runs, so that a command which runs none does not wait for it.
A loop's cached code is compiled anew when its own file changes, not when a function of another file
changes that it calls: then delete the `__pycache__` folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, update_wrapper
from threading import RLock
from types import CodeType, ModuleType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_LOCK = RLock()
_OVERLOADS: list[tuple[Callable[..., Any], Callable[..., Any]]] = []  # numba has not seen these


def jit(function: F) -> F:
    """Compile at first call per argument types; `fastmath` stays off, so results are exact."""
    return cast(F, _Loop(function))


def inlined(function: F) -> F:
    """`jit` for a piece of several loops over slices of arrays; each is compiled with its own copy.

    A call in its place keeps the compiler from vectorising what is behind it.
    """
    return cast(F, _Loop(function, inline="always"))


def reordered(function: F) -> F:
    """`jit` for a loop of sums that may be reordered, which vectors of the processor need."""
    return cast(F, _Loop(function, fastmath={"reassoc"}))


def overload(function: Callable[..., Any]) -> Callable[[F], F]:
    """As numba's: the decorated one says what `function` is in loops, by its arguments' types."""

    def note(choose: F) -> F:
        _OVERLOADS.append((function, choose))
        return choose

    return note


class _Loop:
    """Stands in for a compiled loop until its first call; then numba's takes its place."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        update_wrapper(self, function)
        self._function, self._options = function, options
        self._made: Any = None
        self._ready = False

    def __call__(self, *args: Any) -> Any:
        return (self._made if self._ready else self.compiled())(*args)

    def compiled(self) -> Any:
        """numba's function, with those that it calls in the modules where it finds them."""
        with _LOCK:
            if self._made is None:
                self._made = _compiled(self._function, self._options)
                for scope, name, loop in _loops(self._function):
                    scope[name] = loop.compiled()
                scope, name = self._function.__globals__, self._function.__name__
                if scope.get(name) is self:
                    scope[name] = self._made
                self._ready = True
            return self._made


def _loops(function: Callable[..., Any]) -> Iterator[tuple[dict[str, Any], str, _Loop]]:
    """The stand-ins that a function names, as globals or in modules, and where they stand."""
    names = set(_names(function.__code__))
    known = function.__globals__
    scopes: list[dict[str, Any]] = [known]
    scopes += [vars(known[n]) for n in names if isinstance(known.get(n), ModuleType)]
    for scope in scopes:
        for name in names & scope.keys():
            if isinstance(scope[name], _Loop):
                yield scope, name, scope[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    import numba
    from numba.extending import overload

    while _OVERLOADS:
        overload(_OVERLOADS[-1][0])(_OVERLOADS[-1][1])
        _OVERLOADS.pop()
    compile = partial(numba.njit, nogil=True, **options)
    try:
        return compile(cache=True)(function)
    except RuntimeError:  # numba finds no writable folder for its cache
        return compile(cache=False)(function)
