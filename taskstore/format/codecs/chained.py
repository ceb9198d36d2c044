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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskstore.errors import FormatError
from taskstore.format.codecs.steps import (
    CLASSES,
    ESCAPE,
    SHIFT,
    classes_of,
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
        self._w0_N = w0_N
        self._classes, self._counts = classes_of(w0_N)
        self.ends = self._counts.cumsum()
        self._at_N: NDArray[np.uint32] | None = None  # the element at each place of the order

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
            return sum(loops.count(stream, shared) for stream in before[1:])
        return int(np.count_nonzero(before[CLASSES + 1] == MORE))

    def sorted(self, w_N: U) -> U:
        """Return the elements in that order."""
        sorted_N = np.empty_like(w_N)
        if self._at_N is not None:
            sizes.gather(w_N, self._at_N, sorted_N)
        else:
            self._at_N = np.zeros(w_N.size, np.uint32)  # each a place, whatever `arrange` meets
            place = (self.ends - self._counts).astype(np.uint64)
            order = (self._w0_N, SHIFT, self._classes, place)
            sizes.arrange(*order, w_N, self._at_N, sorted_N)
        return sorted_N

    def unsorted(self, sorted_N: U) -> U:
        """Return elements that were sorted in the tensor's order."""
        assert self._at_N is not None
        w_N = np.empty_like(sorted_N)
        sizes.scatter(sorted_N, self._at_N, w_N)
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
        sorted_N = self.sorted(self._w0_N)
        assert self._at_N is not None
        ordered_E[self._at_N[at_E].argsort()] = z_E
        loops.follow(sorted_N, bytes_N, ordered_E)
        return sorted_N

    def followed(self, sorted_N: U, streams: list[Bytes]) -> U:
        """Follow steps from weights that are in that order, in place.

        Raises FormatError where an escaped value needs no escape, or is too large.
        """
        shared, bytes_N = int(streams[0][0]), np.concatenate(streams[1 : CLASSES + 1])
        z_E = _escapes(streams[CLASSES + 1 :], MOST[shared])
        if shared == 1:
            loops.follow(sorted_N, bytes_N, z_E)
        elif not loops.follow_pairs(sorted_N, bytes_N, self.ends, z_E):
            raise FormatError("a step is coded after the last element")
        return sorted_N


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
