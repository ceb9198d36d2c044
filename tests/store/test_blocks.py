"""Blocks come in order, and are where they belong before they come; damage is told of the file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import taskstore
from taskstore.errors import ChecksumMismatch, FormatError, OutputError
from taskstore.executors import threads
from taskstore.format.digests import meanwhile
from taskstore.store.blocks import own_blocks


class Memory:
    """A target in memory: name -> bytes (None: not put), and the threads that put them."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes
        self.found: dict[str, Any] = {}
        self.threads = set[int]()

    def begin(self, name: str) -> None:
        self.found[name] = np.zeros(self._sizes[name], np.uint8)

    def put(self, name: str, offset: int, bits_N: Any) -> None:
        self.threads.add(threading.get_ident())
        self.found[name][offset : offset + bits_N.nbytes] = bits_N.view("u1")


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_target_has_the_bytes_of_a_block_before_it_comes(packed: Path, jobs: int) -> None:
    store = taskstore.open(packed)
    with store.open_base() as base, store.reader("alpha", base) as reader:
        sizes = {name: tensor.nbytes for name, tensor in reader.own_tensors.items()}
        target, at = Memory(sizes), dict.fromkeys(sizes, 0)
        for name, bits_N in own_blocks(reader, sizes, threads(jobs), target):
            there = target.found[name][at[name] : at[name] + bits_N.nbytes]
            assert there.tobytes() == bits_N.tobytes()
            at[name] += bits_N.nbytes
    assert at == sizes
    assert threading.get_ident() not in target.threads


def test_what_a_check_says_of_a_file_comes_before_what_it_broke() -> None:
    def check(_: Any) -> None:
        raise ChecksumMismatch("base.safetensors", "a", "b")

    for broken in (FormatError("a frame is broken"), ChecksumMismatch("tensor 'w'", "a", "b")):
        with pytest.raises(ChecksumMismatch, match=r"base\.safetensors"), meanwhile(check):
            raise broken
    with pytest.raises(ChecksumMismatch, match=r"base\.safetensors"), meanwhile(check) as checked:
        checked()
    with pytest.raises(FormatError, match="a frame"), meanwhile(lambda _: None):
        raise FormatError("a frame is broken")


def test_a_check_is_told_that_nobody_waits_for_it() -> None:
    begun = threading.Event()

    def check(stopped: Any) -> None:
        begun.set()
        while not stopped():
            pass

    with pytest.raises(OutputError), meanwhile(check):
        assert begun.wait(60)
        raise OutputError("the disk is full")
