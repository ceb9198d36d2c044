"""Lets any number of readers (forward passes) touch the weights, or one swap.

Hooks on the module and its direct children see forward passes (an encoder may be called on its
own). One thread's nested passes count once. A waiting swap goes before passes that have not begun,
so a busy model cannot put it off for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from taskstore.errors import ModelBusy

Busy = Literal["wait", "raise", "unguarded"]


class Gate:
    """A lock of many readers and one writer; `busy` says what a swap does while there are some."""

    def __init__(self, busy: Busy) -> None:
        self._busy = busy
        self._change = threading.Condition()
        self._readers: dict[int, int] = {}  # thread -> depth
        self._writer: int | None = None
        self._waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Begin to read; waits for a swap that is under way."""
        me = threading.get_ident()
        with self._change:
            if me not in self._readers and me != self._writer:
                self._change.wait_for(lambda: self._writer is None and not self._waiting)
            self._readers[me] = self._readers.get(me, 0) + 1

    def leave(self) -> None:
        """End what `enter` began; does nothing without it."""
        me = threading.get_ident()
        with self._change:
            depth = self._readers.pop(me, 1) - 1
            if depth:
                self._readers[me] = depth
            self._change.notify_all()

    @contextmanager
    def swapping(self, timeout: float | None) -> Iterator[None]:
        """Be alone with the weights; raises ModelBusy where it may not wait, or not that long."""
        me = threading.get_ident()
        with self._change:
            if me in self._readers or me == self._writer:
                raise ModelBusy("this thread is inside the model or `using`; swap outside of it")
            self._wait(timeout)
            self._writer = me
        try:
            yield
        finally:
            with self._change:
                self._writer = None
                self._change.notify_all()

    def _wait(self, timeout: float | None) -> None:
        if self._busy == "raise" and self._readers:
            raise ModelBusy(
                f"{len(self._readers)} thread(s) are running the model; swap when they are done, "
                "or attach with busy='wait'"
            )
        until = None if timeout is None else time.monotonic() + timeout
        self._waiting += 1
        try:
            while self._readers or self._writer is not None:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise ModelBusy(f"the model was still running after {timeout} s")
                self._change.wait(left)
        finally:
            self._waiting -= 1
            self._change.notify_all()

    def hook(self, module: nn.Module) -> list[Any]:
        """Watch a module's forward passes; returns the hooks' handles, none where unguarded."""
        if self._busy == "unguarded":
            return []

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def before(*_: Any) -> None:
            self.enter()

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def after(*_: Any) -> None:
            self.leave()

        handles: list[Any] = []
        for watched in {id(m): m for m in (module, *module.children())}.values():
            handles.append(watched.register_forward_pre_hook(before, prepend=True))
            handles.append(watched.register_forward_hook(after, always_call=True))
        return handles
