"""Windows: exact reads, each byte fetched once, within the memory, whatever the network does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from threading import Barrier, BrokenBarrierError, Event

import pytest
from blake3 import blake3

from taskstore.errors import FormatError
from taskstore.locations.remote import windows
from taskstore.locations.remote.windows import HEAD, SMALLEST, Temporary, Windows

DATA = random.Random(7).randbytes(HEAD + 5 * SMALLEST + 12345)


class Server:
    """Gives ranges of DATA, and counts them."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data, self.ranges = data, list[tuple[int, int]]()

    def fetch(self, begin: int, end: int) -> Iterator[bytes]:
        self.ranges.append((begin, end))
        for at in range(begin, end, 100_000):
            yield self.data[at : min(at + 100_000, end)]

    @property
    def fetched(self) -> int:
        return sum(end - begin for begin, end in self.ranges)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(windows, "pause", found.append)
    return found


def test_who_reads_once_fetches_once(server: Server) -> None:
    """Files that are read side by side, in memory for two windows of each."""
    servers = [Server() for _ in range(3)]
    pool = Windows(memory=6 * SMALLEST, ahead=1)
    files = [pool.file(one.fetch, len(DATA), "f") for one in servers]
    for at in range(0, len(DATA), 300_000):
        count = min(300_000, len(DATA) - at)
        assert all(file.read(at, count) == DATA[at : at + count] for file in files)
        assert pool.used <= pool.memory
    assert [one.fetched for one in servers] == [len(DATA)] * 3


def test_two_threads_see_windows_of_one_size(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One asks while another does, and the number of readers changes in between."""
    pool, steps, both = Windows(), iter((SMALLEST, 2 * SMALLEST)), Barrier(2)

    def step(size: int) -> int:
        with suppress(BrokenBarrierError):
            both.wait(0.2)
        return next(steps)

    monkeypatch.setattr(pool, "step", step)
    file = pool.file(server.fetch, len(DATA), "f")
    with ThreadPoolExecutor(2) as threads:
        counts = [*threads.map(lambda _: file.windows, range(2))]
    assert counts == [file.windows] * 2


def test_a_closed_file_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a process would wait for all tries of it at its end."""
    asked = list[int]()

    def fetch(begin: int, end: int) -> Iterable[bytes]:
        asked.append(begin)
        raise Temporary("busy")

    file = Windows().file(fetch, 100, "f")
    monkeypatch.setattr(windows, "pause", lambda seconds: file.close())
    with pytest.raises(OSError, match="closed"):
        file.fetched(0, 0, 100)
    assert asked == [0]


def test_any_reads_are_exact(server: Server) -> None:
    file = Windows(memory=2 * SMALLEST).file(server.fetch, len(DATA), "f")
    rng = random.Random(3)
    for _ in range(60):
        begin = rng.randrange(len(DATA))
        count = rng.randrange(min(3 * SMALLEST, len(DATA) - begin))
        assert file.read(begin, count) == DATA[begin : begin + count]


def test_a_header_costs_no_whole_window(server: Server) -> None:
    file = Windows().file(server.fetch, len(DATA), "f")
    file.read(0, 8)
    file.read(8, 50_000)
    assert server.ranges == [(0, HEAD)]


def test_what_follows_is_fetched_before_it_is_asked_for(server: Server) -> None:
    later = Event()

    def fetch(begin: int, end: int) -> Iterable[bytes]:
        if begin >= HEAD + SMALLEST:
            later.set()
        return server.fetch(begin, end)

    file = Windows(ahead=1).file(fetch, len(DATA), "f")
    file.read(HEAD, 10)
    assert later.wait(120)


def test_a_broken_read_is_taken_up_where_it_stopped(pauses: list[float]) -> None:
    asked: list[int] = []

    def fetch(begin: int, end: int) -> Iterator[bytes]:
        asked.append(begin)
        if len(asked) == 1:
            raise Temporary("429 Too Many Requests", wait=7)
        yield DATA[begin : min(begin + 1000, end)]
        if len(asked) == 2:
            raise Temporary("the connection was cut")
        if len(asked) > 3:
            yield DATA[begin + 1000 : end]

    assert windows.fetch_all(fetch, 50, 5000, "f") == DATA[50:5000]
    assert asked == [50, 50, 1050, 2050]
    assert len(pauses) == 3 and pauses[0] == 7


def test_what_does_not_pass_is_an_error_that_can_be_tried_again(
    server: Server, pauses: list[float]
) -> None:
    broken = True

    def fetch(begin: int, end: int) -> Iterator[bytes]:
        if broken:
            raise Temporary("503 Service Unavailable")
        yield from server.fetch(begin, end)

    file = Windows().file(fetch, len(DATA), "hf://org/x/f")
    with pytest.raises(OSError, match="503 Service Unavailable, 8 times.*hf://org/x/f"):
        file.read(0, 10)
    broken = False
    assert file.read(0, 10) == DATA[:10]
    with pytest.raises(OSError, match="asks for 3600 seconds"):
        windows.fetch_all(_asks_for_an_hour, 0, 1, "f")


def _asks_for_an_hour(begin: int, end: int) -> Iterator[bytes]:
    raise Temporary("429", wait=3600)
    yield b""


def test_a_server_that_sends_more_than_it_said_is_refused() -> None:
    with pytest.raises(FormatError, match="larger than its server said"):
        windows.fetch_all(lambda begin, end: repeat(b"x" * 100), 0, 150, "f")


def test_reads_of_many_threads(server: Server) -> None:
    pool = Windows(memory=3 * SMALLEST)
    file = pool.file(server.fetch, len(DATA), "f")
    begins = [(i * 7919 * 13) % (len(DATA) - 5000) for i in range(300)]
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda begin: file.read(begin, 5000), begins))
    assert all(raw == DATA[b : b + 5000] for raw, b in zip(found, begins, strict=True))
    file.close()
    assert pool.used == 0
    with pytest.raises(OSError, match="the file is closed"):
        file.read(0, 1)


def test_a_file_is_hashed_as_it_comes(server: Server) -> None:
    file = Windows(memory=3 * SMALLEST).file(server.fetch, len(DATA), "f")
    for at in range(0, len(DATA), 700_000):
        file.read(at, min(700_000, len(DATA) - at))
    assert file.digest() == blake3(DATA).hexdigest()
    assert server.fetched == len(DATA)


def test_a_file_is_hashed_in_its_order_whatever_the_order_of_reads(server: Server) -> None:
    file = Windows(memory=3 * SMALLEST).file(server.fetch, len(DATA), "f")
    for at in range(len(DATA) - 1000, 0, -700_000):
        file.read(at, 1000)
    assert file.digest() == blake3(DATA).hexdigest()


def test_the_end_of_a_file(server: Server) -> None:
    for size in (0, 1, HEAD, HEAD + 1):
        file = Windows().file(Server(DATA[:size]).fetch, size, "f")
        assert file.read(0, size) == DATA[:size]
        with pytest.raises(FormatError, match="f ends before"):
            file.read(0, size + 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_readers_with_little_memory_fetch_once(threads: int) -> None:
    """Twelve models: first a few bytes of each tensor are compared, then all is read, by blocks."""
    count, block, data = 12, 300_000, DATA[: HEAD + 3 * SMALLEST]
    pool = Windows(memory=36 << 20)
    servers = [Server(data) for _ in range(count)]
    files = [pool.file(s.fetch, len(data), f"s3://b/{i}/f") for i, s in enumerate(servers)]
    for file in files:
        file.read(0, 8)
        for at in range(HEAD // 2, len(data), 1_500_000):
            assert file.read(at, 128) == data[at : at + 128]

    def read(at: int) -> bool:
        end = min(at + block, len(data))
        return all(file.read(at, end - at) == data[at:end] for file in files)

    blocks = range(0, len(data), block)
    with ThreadPoolExecutor(threads) as readers:  # none is far behind, wherever it is held up
        for first in range(0, len(blocks), threads):
            assert all(readers.map(read, blocks[first : first + threads]))
    assert pool.used <= pool.memory
    assert sum(server.fetched for server in servers) <= 1.05 * count * len(data)


def test_samples_of_files_that_fit_are_kept() -> None:
    """No request for each tensor where the windows stay until they are read."""
    server = Server()
    file = Windows().file(server.fetch, len(DATA), "f")
    for _ in range(3):
        for at in range(0, len(DATA) - 128, 100_000):
            assert file.read(at, 128) == DATA[at : at + 128]
    assert file.read(len(DATA) - 8, 8) == DATA[-8:]  # the last window was only looked ahead
    assert server.fetched == len(DATA) and len(server.ranges) == 7


def test_windows_that_arrive_in_any_order_are_hashed_once() -> None:
    """The second comes before the first; the hash goes on when that is here."""
    server, second = Server(), Event()

    def fetch(begin: int, end: int) -> Iterator[bytes]:
        if begin == HEAD:
            second.wait(120)
        yield from server.fetch(begin, end)
        if begin == HEAD + SMALLEST:
            second.set()

    file = Windows().file(fetch, len(DATA), "f")
    assert file.read(0, len(DATA)) == DATA
    assert file.digest() == blake3(DATA).hexdigest()
    assert server.fetched == len(DATA)
