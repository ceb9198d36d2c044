"""Puts into each kind of object store, whose server or network fails: nothing is lost, and nobody's
put is taken for another's. The kinds differ in what a condition is: an entity tag, or a generation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from taskstore.errors import ChangedMeanwhile, RemoteError
from taskstore.locations.remote import windows
from taskstore.locations.remote.bucket import PART, Bucket
from tests.support import clouds
from tests.support.google_storage import GoogleStorage
from tests.support.http_faults import LOST, Proxy, status

PARTS = {"s3": "partNumber=", "gs": "partNumber=", "az": "comp=block&"}  # of a large file


@pytest.fixture
def proxy(
    scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """What stands in front of the server, for clients that are made from now on."""
    server: clouds.Server = request.getfixturevalue(scheme)
    monkeypatch.setattr(windows, "pause", lambda seconds: None)
    clouds.retry_once(monkeypatch)
    with Proxy(server.port) as made:
        clouds.point_at(scheme, server.environment(made.port), monkeypatch)
        yield made


@pytest.fixture
def place(scheme: str, proxy: Proxy, tmp_path: Path) -> Bucket:
    return clouds.bucket(scheme, tmp_path.name)


def whole(place: Bucket, name: str) -> bytes:
    return place.read(name, 1 << 30)


@pytest.mark.parametrize("code", [500, 503, 429])
def test_what_does_not_pass_is_said(place: Bucket, proxy: Proxy, code: int) -> None:
    place.put("f", b"1")
    with closing(place.open("f")) as file:
        proxy.failing(10_000, status(code, "Whatever"), "GET")
        with pytest.raises(OSError, match=f"{code} Whatever.*try again later"):
            file.read(0, 1)
    proxy.failing(10_000, status(code, "Whatever"), "PUT")
    with pytest.raises(RemoteError, match=f"f: .*{code} Whatever.*try again later"):
        place.put("f", b"2")


def test_a_put_that_breaks_leaves_what_was(place: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    """Also in the middle of a large file's parts."""
    place.put("f", b"before")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(PART + 1000))
    kind = place.address.scheme
    for answer in (status(403, "AccessDenied"), status(400, "ExpiredToken")):
        proxy.failing(10_000, answer, PARTS[kind] if kind == "az" else f"{PARTS[kind]}2")
        with pytest.raises(RemoteError, match="may not do that|have expired"):
            place.put_file("f", large)
        assert list(place.names()) == ["f"]
        assert whole(place, "f") == b"before"
    proxy.failing(1, status(500, "InternalError"), PARTS[kind])
    place.put_file("f", large)
    assert whole(place, "f") == large.read_bytes()


@pytest.mark.parametrize("seen", [None, b"before"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_put_whose_answer_is_lost(
    place: Bucket, proxy: Proxy, seen: bytes | None, times: int
) -> None:
    """What is there is what was sent, so it was no other writer; the next try finds out, too."""
    if seen is not None:
        place.put("f", seen)
    proxy.failing(times, LOST, "PUT")
    place.put_if_unchanged("f", b"mine", seen)
    assert whole(place, "f") == b"mine"


@pytest.mark.parametrize("seen", [None, b"before"])
def test_a_put_that_never_came_is_made_again(
    place: Bucket, proxy: Proxy, seen: bytes | None
) -> None:
    if seen is not None:
        place.put("f", seen)
    proxy.failing(2, status(500, "InternalError"), "PUT")
    place.put_if_unchanged("f", b"mine", seen)
    assert whole(place, "f") == b"mine"
    proxy.failing(10_000, status(503, "SlowDown"), "PUT")
    with pytest.raises(RemoteError, match="503 SlowDown.*try again later"):
        place.put_if_unchanged("f", b"later", b"mine")
    assert whole(place, "f") == b"mine"


@pytest.mark.parametrize("seen", [None, b"before"])
def test_another_writer_while_no_answer_comes(
    place: Bucket, proxy: Proxy, seen: bytes | None
) -> None:
    theirs = b"theirs"
    if seen is not None:
        place.put("f", seen)

    def fault(method: str, path: str) -> bytes | None:
        if method != "PUT":
            return None
        proxy.fault = lambda method, path: None
        place.put("f", theirs)
        return status(500, "InternalError")

    proxy.fault = fault
    with pytest.raises(ChangedMeanwhile, match="f was changed by another writer"):
        place.put_if_unchanged("f", b"mine", seen)
    assert whole(place, "f") == theirs


def test_a_put_between_the_look_and_the_put(place: Bucket, proxy: Proxy) -> None:
    """The condition is the server's to check: another has put after what was seen was read."""
    place.put("f", b"before")

    def fault(method: str, path: str) -> None:
        if method == "PUT":
            proxy.fault = lambda method, path: None
            place.put("f", b"theirs")

    proxy.fault = fault
    with pytest.raises(ChangedMeanwhile, match="f was changed by another writer"):
        place.put_if_unchanged("f", b"mine", b"before")
    assert whole(place, "f") == b"theirs"
    place.put("f", b"before")  # the same bytes again are what was seen
    place.put_if_unchanged("f", b"mine", b"before")


def test_of_many_that_count_none_is_lost(scheme: str, place: Bucket) -> None:
    """Each adds one to what it saw, and looks again where another was first."""
    place.put_if_unchanged("n", b"0", None)

    def count(_: int) -> None:
        while True:
            seen = whole(place, "n")
            try:
                return place.put_if_unchanged("n", b"%d" % (int(seen) + 1), seen)
            except ChangedMeanwhile:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(12)))
    assert whole(place, "n") == b"12"


def test_listings_come_in_pages(gs: GoogleStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gs, "page", 2)
    place = clouds.bucket("gs", "pages")
    for name in ("a", "b/c", "d", "e&f", "g"):
        place.put(name, b"1")
    assert list(place.names()) == ["a", "b/c", "d", "e&f", "g"]
