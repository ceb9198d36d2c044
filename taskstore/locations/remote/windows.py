"""Read files over a network in windows: several at a time, ahead of the reader, within a bound.

A window that is read to its end is the first to be given up, so who reads a file once fetches it
once. What is fetched ahead never pushes out what is not yet read. Where not all files fit into the
memory, windows are small enough for all readers, and a few bytes from here and there are fetched
alone. A request that fails for a while is made again, from where it stopped.
"""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock, RLock

from blake3 import blake3

from taskstore.errors import FormatError

HEAD = 128 << 10  # bytes of a file's first window: most headers, no more
SMALLEST, LARGEST = 4 << 20, 64 << 20
PER_FILE = 512  # windows of a file, about, where their size may be between those two
PER_READER = 3  # windows that have room for each reader
LEAST = 1 << 20  # bytes of a window where many readers share the memory
SAMPLE = 64 << 10  # bytes of a read that may be fetched alone
MEMORY = 256 << 20  # bytes of all windows of a process, where nothing else is said
AHEAD = 2  # windows that are fetched before they are asked for
TRIES = 8  # of one window
LONGEST_WAIT = 300.0  # seconds that a server may ask for
_FIRST_WAIT = 0.5

Fetch = Callable[[int, int], Iterable[bytes]]


class Temporary(OSError):
    """A request failed in a way that may pass; `wait` is how many seconds the server asks for."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(errno.EIO, problem)
        self.wait = wait


def fetch_all(fetch: Fetch, begin: int, end: int, label: str) -> bytes:
    """Fetch bytes [begin, end) of a file; a request that breaks is taken up where it stopped.

    `fetch` yields parts of a range, and raises Temporary for what may pass. Raises OSError where it
    does not pass, and FormatError where more comes than was asked for.
    """
    got, count = bytearray(), end - begin
    for failed in range(1, TRIES + 1):
        try:
            for part in fetch(begin + len(got), end):
                got += part
                if len(got) > count:
                    raise FormatError(f"{label} is larger than its server said")
            if len(got) == count:
                return bytes(got)
            last = Temporary("the connection ended early")
        except Temporary as error:
            last = error
        if last.wait > LONGEST_WAIT:
            raise OSError(
                errno.EAGAIN, f"its server asks for {last.wait:.0f} seconds of rest", label
            )
        if failed < TRIES:
            pause(max(last.wait, min(_FIRST_WAIT * 2 ** (failed - 1), 8.0)))
    raise OSError(errno.EIO, f"{last.strerror}, {TRIES} times; try again later", label) from last


pause = time.sleep


@dataclass
class _Window:
    size: int
    data: Future[bytes]
    unread: int
    arrived: bytes | None = None


Key = tuple[int, int]  # which file, and which window of it


class Windows:
    """The windows of all files that share its memory and its threads; thread-safe."""

    def __init__(self, memory: int = MEMORY, ahead: int = AHEAD, threads: int = 8) -> None:
        self.memory, self.ahead = memory, ahead
        self.used = 0  # bytes
        self.lock = RLock()
        self._held: OrderedDict[Key, _Window] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="taskstore-fetch")
        self._files = 0
        self._open: dict[int, WindowedFile] = {}

    def file(self, fetch: Fetch, size: int, label: str) -> WindowedFile:
        """Make a file of `size` bytes out of what fetches ranges of it."""
        with self.lock:
            self._files += 1
            file = self._open[self._files] = WindowedFile(self, self._files, fetch, size, label)
            return file

    def step(self, size: int) -> int:
        """Return the bytes of the windows of a file of `size` bytes, which is read from now on."""
        best = min(max(SMALLEST, _power_of_two(size // PER_FILE)), LARGEST)
        with self.lock:  # the files of one model are read one after the other
            readers = len({file.label.rpartition("/")[0] for file in self._open.values()}) or 1
        return max(LEAST, min(best, _power_of_two(self.memory // (PER_READER * readers))))

    def sampled(self, file: WindowedFile, k: int) -> bool:
        """Tell whether a few bytes of a window are better fetched alone."""
        with self.lock:
            if (file.number, k) in self._held or k in (0, file.last + 1):
                return False
            return sum(other.size for other in self._open.values()) > self.memory

    def get(self, file: WindowedFile, k: int, used: int) -> bytes:
        """Return a window, of which the caller reads `used` bytes; fetches what follows it."""
        with self.lock:
            window = self._wanted(file, k)
            window.unread -= used
            file.last = k
            if (file.number, k) in self._held:
                self._held.move_to_end((file.number, k))
            if k == 1 or (file.number, k - 1) in self._held:
                for later in range(k + 1, min(k + 1 + self.ahead, file.windows)):
                    self._look_ahead(file, later)
        return window.data.result()

    def start(self, file: WindowedFile, numbers: Iterable[int]) -> None:
        """Begin to fetch windows that will be asked for at once, as far as there is room."""
        with self.lock:
            for k in numbers:
                self._look_ahead(file, k)

    def _wanted(self, file: WindowedFile, k: int) -> _Window:
        found = self._held.get((file.number, k))
        if found is None:
            if not self._make_room(size := file.size_of(k)):
                self._give_up(size, lambda window: window.unread == window.size)  # looked ahead
                self._give_up(size, lambda window: True)
            found = self._fetch(file, k)
        return found

    def _look_ahead(self, file: WindowedFile, k: int) -> None:
        active = {number for number, held in self._held if held}
        mine = sum(w.size for (number, _), w in self._held.items() if number == file.number)
        share = self.memory // max(len(active), 1)
        if (file.number, k) in self._held or mine + (size := file.size_of(k)) > share:
            return
        if self._make_room(size):
            self._fetch(file, k)

    def _fetch(self, file: WindowedFile, k: int) -> _Window:
        begin, size = file.begin_of(k), file.size_of(k)
        data = self._pool.submit(file.fetched, k, begin, begin + size)
        window = self._held[file.number, k] = _Window(size, data, size)
        self.used += size
        data.add_done_callback(lambda done: self._forget_failed(file.number, k, done))
        return window

    def held(self, file: WindowedFile, k: int) -> bytes | None:
        """Return a window that is here."""
        with self.lock:
            found = self._held.get((file.number, k))
            return found.arrived if found else None

    def arrived(self, file: WindowedFile, k: int, data: bytes) -> None:
        """Note that a window is here."""
        with self.lock:
            if found := self._held.get((file.number, k)):
                found.arrived = data

    def _forget_failed(self, number: int, k: int, done: Future[bytes]) -> None:
        """Let a window that could not be fetched be asked for again."""
        with self.lock:
            held = self._held.get((number, k))
            if held and held.data is done and (done.cancelled() or done.exception()):
                self._drop((number, k))

    def _make_room(self, size: int) -> bool:
        """Give up windows that were read to their ends, until there is room; tell if there is."""
        self._give_up(size, lambda window: window.unread <= 0)
        return self.used + size <= self.memory

    def _give_up(self, size: int, which: Callable[[_Window], bool]) -> None:
        """Give up such windows, the longest unused first, until there is room."""
        for key in list(self._held):
            if self.used + size <= self.memory:
                return
            if which(self._held[key]):
                self._drop(key)

    def _drop(self, key: Key) -> None:
        self.used -= self._held.pop(key).size

    def close(self, file: WindowedFile) -> None:
        """Give up all windows of a file."""
        with self.lock:
            self._open.pop(file.number, None)
            for key in [key for key in self._held if key[0] == file.number]:
                self._held[key].data.cancel()
                if key in self._held:
                    self._drop(key)


class WindowedFile:
    """An OpenFile whose bytes come over a network, and are hashed as they come."""

    def __init__(self, windows: Windows, number: int, fetch: Fetch, size: int, label: str) -> None:
        self.number, self.fetch, self.size, self.label = number, fetch, size, label
        self._windows = windows
        self.last = -1  # the window that was read last
        self._open, self._known = True, 0
        self._hash, self._hashed, self._lock = blake3(), 0, Lock()

    @property
    def _step(self) -> int:
        """Bytes of a window, for all threads; told when all files of a job are open, as a rule."""
        with self._windows.lock:
            self._known = self._known or self._windows.step(self.size)
            return self._known

    @property
    def windows(self) -> int:
        return 1 + (-(-(self.size - HEAD) // self._step) if self.size > HEAD else 0)

    def fetched(self, k: int, begin: int, end: int) -> bytes:
        """Fetch a window, bytes [begin, end)."""
        data = fetch_all(self._while_open, begin, end, self.label)
        self._windows.arrived(self, k, data)
        self._hash_on(k, data)
        return data

    def _while_open(self, begin: int, end: int) -> Iterable[bytes]:
        if not self._open:
            raise OSError(errno.EBADF, "the file is closed", self.label)
        return self.fetch(begin, end)

    def _hash_on(self, k: int, data: bytes | None) -> None:
        """Hash a window, if it is the next one, and those after it that are here."""
        with self._lock:
            while k == self._hashed and data is not None:
                self._hash.update(data)
                k = self._hashed = k + 1
                data = self._windows.held(self, k) if k < self.windows else None

    def digest(self) -> str:
        """Return the BLAKE3 of the whole file; fetches what did not come in its turn before."""
        while (k := self._hashed) < self.windows:
            self._hash_on(k, self._windows.get(self, k, self.size_of(k)))
        return self._hash.hexdigest()

    def begin_of(self, k: int) -> int:
        return HEAD + (k - 1) * self._step if k else 0

    def size_of(self, k: int) -> int:
        return min(self.begin_of(k + 1) if k else HEAD, self.size) - self.begin_of(k)

    def _window_at(self, offset: int) -> int:
        return 0 if offset < HEAD else 1 + (offset - HEAD) // self._step

    def read(self, begin: int, count: int) -> bytes:
        """Read exactly `count` bytes; raises FormatError where there are fewer, or OSError."""
        if not self._open:
            raise OSError(errno.EBADF, "the file is closed", self.label)
        if begin < 0 or count < 0 or (count and begin + count > self.size):
            raise FormatError(f"{self.label} ends before byte {begin + count}")
        if not count:
            return b""
        numbers = range(self._window_at(begin), self._window_at(begin + count - 1) + 1)
        if count <= SAMPLE and self._windows.sampled(self, numbers[0]):
            return fetch_all(self.fetch, begin, begin + count, self.label)
        if len(numbers) > 1:
            self._windows.start(self, numbers)
        parts, end = [], begin + count
        for k in numbers:
            first = self.begin_of(k)
            a, z = max(begin, first) - first, min(end, first + self.size_of(k)) - first
            parts.append(self._windows.get(self, k, z - a)[a:z])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._windows.close(self)


def _power_of_two(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)


@cache
def shared() -> Windows:
    """The windows of this process, whichever locations its files lie in."""
    return Windows()
