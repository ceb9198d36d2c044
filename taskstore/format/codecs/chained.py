"""`chained`: a fine-tune of 16-bit floats as steps from another one, its parent, bit for bit.

The steps are those of `steps`, counted from the parent's weights. The classes are by the size of
the base's weights, though, so all tasks of a chain put their steps in one order. A chain is
followed in that order, which is also that of `steps`: the base's weights are sorted once, each
task's steps are added where they lie, and what comes of the last is put back. So a further task of
a chain costs little more than zstd. Where most steps are small, two elements share a byte: the
entropy coder then has half the symbols, and less than a bit for one. Bits per weight of
checkpoints of one run:

    steps between   by `steps`   two in a byte   one in a byte
    10                    1.09            0.97            1.13
    30                    1.80            1.75            2.01
    all (the base)        6.69            7.04            6.69

Stream 0 is a byte: how many elements share one, 1 or 2. Streams 1 to 16: the steps of class c, 255
or 15 at most, in order of their elements, the first in the low half of a byte. Stream 17: what
steps of 255 or 15 lack, 255 at most, in the order of the streams; 18 and 19: low and high bytes of
those. What is given is (2, N): the parent's weights, and the base's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.steps import (
    CLASSES,
    ESCAPE,
    SHIFT,
    classes_of,
    counts_of,
    escapes_of,
    size_after,
)
from taskstore.native import chained as loops
from taskstore.native import classes as sizes
from taskstore.native import steps

Bytes = NDArray[np.uint8]
U = NDArray[Any]  # weights, uint16
MOST = {1: 255, 2: 15}  # elements in a byte -> the largest number of one
MORE = 255  # of stream 17: the rest stands in the two after it
MANY = 10  # where more than one in so many is escaped, each element has a byte


class Chained:
    def sizes(self, n: int, itemsize: int) -> tuple[int, ...]:
        """Upper bounds; `sizer` has what a stream must have."""
        return (1, *(n,) * (CLASSES + 3))

    def sizer(self, n: int, itemsize: int, given_N: U | None) -> Callable[[list[Bytes]], int]:
        assert given_N is not None
        return Order(given_N[1]).size

    def encode(self, chunk_N: U, given_N: U | None) -> list[Bytes]:
        assert given_N is not None
        order = Order(given_N[1])
        z_N, bytes_N = np.empty(chunk_N.size, np.uint16), np.empty(chunk_N.size, np.uint8)
        steps.steps_to(order.sorted(given_N[0]), order.sorted(chunk_N), z_N, bytes_N)
        shared = 1 if MANY * int(np.count_nonzero(bytes_N >= MOST[2])) > bytes_N.size else 2
        most = MOST[shared]
        classes = np.split(np.minimum(bytes_N, np.uint8(most)), order.ends[:-1])
        left = z_N[bytes_N >= most] - np.uint16(most)
        far = left[left >= MORE]
        return [
            np.array([shared], np.uint8),
            *(_paired(numbers) if shared == 2 else numbers for numbers in classes),
            np.minimum(left, MORE).astype(np.uint8),
            (far & 0xFF).astype(np.uint8),
            (far >> 8).astype(np.uint8),
        ]

    def decode(self, streams: list[Bytes], n: int, itemsize: int, given_N: U | None) -> U:
        """Raises FormatError where an escaped value needs no escape."""
        assert given_N is not None
        order = Order(given_N[1])
        return order.unsorted(order.followed(order.sorted(given_N[0]), streams))


class Order:
    """The order in which a chunk's elements are coded: by class, given the base's weights."""

    def __init__(self, w0_N: U) -> None:
        self._w0_N, self._classes = w0_N, classes_of(w0_N)
        self._counts = counts_of(w0_N, self._classes)
        self.ends = self._counts.cumsum()

    def size(self, before: list[Bytes]) -> int:
        """Return the raw size of the stream after those `before`; raises FormatError."""
        if not before:
            return 1
        shared = int(before[0][0])
        if shared not in MOST:
            raise FormatError(f"{shared} steps share a byte, where 1 or 2 may")
        if len(before) <= CLASSES:
            return -(-int(self._counts[len(before) - 1]) // shared)
        if len(before) == CLASSES + 1:
            return loops.count(np.concatenate(before[1:]), shared)
        return int(np.count_nonzero(before[CLASSES + 1] == MORE))

    def sorted(self, w_N: U) -> U:
        """Return the elements in that order."""
        sorted_N = np.empty_like(w_N)
        sizes.gather(w_N, self._arranged[0], sorted_N)
        return sorted_N

    def unsorted(self, sorted_N: U) -> U:
        """Return the elements in the tensor's order."""
        w_N = np.empty_like(sorted_N)
        sizes.scatter(sorted_N, self._arranged[0], w_N)
        return w_N

    def size_of_steps(self, before: list[Bytes]) -> int:
        """`size` for streams of `steps`, given the base's weights."""
        return size_after(before, self._counts)

    def first(self, streams: list[Bytes]) -> U:
        """Follow streams of `steps` from the base's weights; returns weights in that order.

        Raises FormatError where an escaped value needs no escape.
        """
        z_E, bytes_N = escapes_of(streams), np.concatenate(streams[:CLASSES])
        ordered_E, at_E = np.empty_like(z_E), np.flatnonzero(bytes_N == ESCAPE)
        elements, w0_N = self._arranged
        ordered_E[elements[at_E].argsort()] = z_E
        sorted_N = w0_N.copy()
        loops.follow(sorted_N, bytes_N, ESCAPE, ordered_E)
        return sorted_N

    def followed(self, sorted_N: U, streams: list[Bytes]) -> U:
        """Follow steps from weights that are in that order, in place.

        Raises FormatError where an escaped value needs no escape, or is too large.
        """
        shared, bytes_N = int(streams[0][0]), np.concatenate(streams[1 : CLASSES + 1])
        if shared == 2:
            pairs, bytes_N = bytes_N, np.empty(sorted_N.size, np.uint8)
            if not loops.halve(pairs, self.ends, bytes_N):
                raise FormatError("a step is coded after the last element")
        z_E = _escapes(streams[CLASSES + 1 :], MOST[shared])
        loops.follow(sorted_N, bytes_N, MOST[shared], z_E)
        return sorted_N

    @cached_property
    def _arranged(self) -> tuple[NDArray[np.uint32], U]:
        """The element at each place of the order, and the base's weight of it."""
        at_N, sorted_N = np.empty(self._w0_N.size, np.uint32), np.empty_like(self._w0_N)
        place = (self.ends - self._counts).astype(np.uint64)
        sizes.arrange(self._w0_N, SHIFT, self._classes, place, at_N, sorted_N)
        return at_N, sorted_N


def _paired(numbers_N: Bytes) -> Bytes:
    """Two numbers below 16 in each byte, the first in the low half; the last may be alone."""
    pairs = np.append(numbers_N, np.zeros(numbers_N.size % 2, np.uint8)).reshape(-1, 2)
    found: Bytes = pairs[:, 0] | (pairs[:, 1] << np.uint8(4))
    return found


def _escapes(streams: list[Bytes], most: int) -> NDArray[np.uint16]:
    """Steps of what is escaped; raises FormatError."""
    left, low, high = streams
    z_E = np.empty(left.size, np.uint16)
    if not loops.join(left, low, high, most, z_E):
        raise FormatError("a step is escaped that fits a byte, or is larger than its dtype allows")
    return z_E
