"""What every location over a network does when a request fails: of each object store, of a hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from taskstore.errors import ChangedMeanwhile, FormatError, RemoteError
from taskstore.locations.base import Location
from taskstore.locations.remote import windows
from taskstore.locations.remote.windows import HEAD
from tests.locations.test_base import KINDS
from tests.support import clouds
from tests.support.http_faults import Proxy, status

DATA = os.urandom(3 << 20)
READS = {"s3": "GET", "az": "GET", "gs": "GET", "hub": "/resolve/"}  # in lines of what reads a file
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # its own calls


@dataclass
class Far:
    """A place whose requests go by way of a proxy; it holds `f`."""

    kind: str
    proxy: Proxy
    opened: Callable[[], Location]
    waits: list[float] = field(default_factory=list)

    def failing(self, times: int, answer: bytes | int) -> None:
        self.proxy.failing(times, answer, READS[self.kind])


@pytest.fixture(params=[*clouds.EACH, "hub"])
def far(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Far]:
    kind: str = request.param
    server = request.getfixturevalue(kind)
    port = int(server.url.rsplit(":", 1)[1]) if kind == "hub" else server.port
    clouds.retry_once(monkeypatch)
    with Proxy(port) as proxy:
        made = Far(kind, proxy, lambda: KINDS[kind](tmp_path))
        monkeypatch.setattr(windows, "pause", made.waits.append)
        if kind != "hub":
            clouds.point_at(kind, server.environment(proxy.port), monkeypatch)
        else:
            url = f"http://127.0.0.1:{proxy.port}"
            files = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
            monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
            monkeypatch.setenv("HF_TOKEN", "hf_of_ann")
        made.opened().put("f", DATA)
        yield made


@pytest.mark.parametrize(
    "answer",
    [
        status(500, "InternalError"),
        status(503, "SlowDown"),
        status(429, "TooManyRequests", "Retry-After: 3"),
        0,
        100,
        1_000_000,
    ],
    ids=["500", "503", "429", "cut at once", "cut early", "cut late"],
)
def test_what_passes_is_tried_again(far: Far, answer: bytes | int) -> None:
    place = far.opened()
    with closing(place.open("f")) as file:
        far.failing(3, answer)
        assert file.read(0, len(DATA)) == DATA
    if far.kind == "hub" and answer == status(429, "TooManyRequests", "Retry-After: 3"):
        assert far.waits.count(3.0) == 3  # as long as the server asked for


def test_a_read_that_breaks_goes_on_where_it_stopped(far: Far) -> None:
    place = far.opened()
    with closing(place.open("f")) as file:
        far.failing(1, 2_000_000)
        before = far.proxy.received
        assert file.read(0, len(DATA)) == DATA
    assert far.proxy.received - before < len(DATA) + (1 << 20)


def test_what_does_not_pass_is_said(far: Far) -> None:
    place = far.opened()
    with closing(place.open("f")) as file:
        far.failing(10_000, status(503, "SlowDown"))
        with pytest.raises(OSError, match=r"f: .*503.*try again later|503.*8 times"):
            file.read(0, 1)
        far.failing(10_000, status(403, "AccessDenied"))
        with pytest.raises(RemoteError, match="may not do that|has no right") as found:
            file.read(HEAD, 1)
        assert "hf_of_ann" not in str(found.value)
        far.failing(0, b"")
        assert file.read(0, len(DATA)) == DATA  # what failed is asked for again


def test_a_file_that_became_shorter_is_refused(far: Far) -> None:
    """A server that has no entity tag to compare says 416."""
    with closing(far.opened().open("f")) as file:
        far.failing(1, status(416, "InvalidRange"))
        with pytest.raises(ChangedMeanwhile, match="f was changed while|shorter than the hub"):
            file.read(0, 5)


def test_a_file_that_changes_while_it_is_read(far: Far) -> None:
    """A bucket's is told; a repository's commit stays what it was."""
    place = far.opened()
    with closing(place.open("f")) as file:
        assert file.read(0, 1) == DATA[:1]
        far.opened().put("f", DATA[::-1])
        if far.kind == "hub":
            assert file.read(HEAD, len(DATA) - HEAD) == DATA[HEAD:]
            return
        with pytest.raises(ChangedMeanwhile, match="f was changed while it was read"):
            file.read(HEAD, len(DATA) - HEAD)


def test_short_answers_and_long_ones(far: Far) -> None:
    """Never fewer bytes, never more."""
    with closing(far.opened().open("f")) as file:
        far.failing(10_000, 10)
        with pytest.raises(OSError, match="ended early|cannot be reached|does not answer"):
            file.read(0, 100)
        far.failing(0, b"")
        with pytest.raises(FormatError, match="ends before"):
            file.read(len(DATA) - 1, 2)
