"""A bucket whose server, network, credentials or settings fail; tests/locations/test_base.py has
what it must do where they do not.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskstore.errors import MissingExtra, RemoteError
from taskstore.locations.remote import windows
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from tests.support import clouds
from tests.support.http_faults import Proxy, status
from tests.support.seaweed import BUCKET, KEY, READER, READER_SECRET, SECRET, Seaweed

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def proxy(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands in front of the server, for clients that are made from now on."""
    monkeypatch.setattr(windows, "pause", lambda seconds: None)
    clouds.retry_once(monkeypatch)
    with Proxy(s3.port) as made:
        for name, value in s3.environment(made.port).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> Bucket:
    return named(tmp_path.name)


def named(prefix: str, bucket: str = BUCKET) -> Bucket:
    return Bucket(Address("s3", bucket, prefix))


def whole(place: Bucket, name: str) -> bytes:
    file = place.open(name)
    try:
        return file.read(0, file.size)
    finally:
        file.close()


CASES = {
    "expired": (status(400, "ExpiredToken"), "have expired .400 ExpiredToken.; get new ones"),
    "denied": (status(403, "AccessDenied"), f"may not do that .*list s3://{BUCKET}"),
    "region": (
        status(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1"),
        "lies in another region.*AWS_REGION",
    ),
    "signed for another": (
        status(400, "AuthorizationHeaderMalformed"),
        "lies in another region .400 AuthorizationHeaderMalformed.; set AWS_REGION",
    ),
    "unknown key": (status(403, "InvalidAccessKeyId"), "not accepted.*AWS_ACCESS_KEY_ID"),
    "clock": (status(403, "RequestTimeTooSkewed"), "clock of this machine is wrong"),
    "no bucket": (status(404, "NoSuchBucket"), f"s3://{BUCKET}: there is no such bucket"),
    "something else": (status(405, "MethodNotAllowed"), "the server refuses .405 Method"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_refusal_has_its_name_and_way_out(place: Bucket, proxy: Proxy, case: str) -> None:
    """In the middle of a read, of a list, and of a write; no secret is in what is said."""
    answer, said = CASES[case]
    place.put("f", b"12345")
    file = place.open("f")
    proxy.failing(10_000, answer)
    for use in (
        lambda: file.read(0, 5),
        lambda: place.open("f"),
        lambda: list(place.names()),
        lambda: place.put("f", b"1"),
        lambda: place.put_if_unchanged("f", b"1", None),
    ):
        with pytest.raises(RemoteError, match=said) as found:
            use()
        assert SECRET not in str(found.value) and KEY not in str(found.value)
        assert found.value.__cause__ is None and found.value.__suppress_context__


def test_what_the_real_server_refuses(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = named(tmp_path.name)
    with pytest.raises(RemoteError, match="s3://nothing-there: there is no such bucket"):
        named("x", "nothing-there").open("f")
    place.put("f", b"1")
    for name, value in s3.environment(key=READER, secret=READER_SECRET).items():
        monkeypatch.setenv(name, value)
    reader = named(tmp_path.name)
    assert whole(reader, "f") == b"1"
    with pytest.raises(RemoteError, match="may not do that .403 AccessDenied"):
        reader.put("f", b"2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    for use in (lambda: named("x").open("f"), lambda: list(named("x").names())):
        with pytest.raises(RemoteError, match="not accepted") as found:
            use()
        assert "another-secret" not in str(found.value)
    said = caplog.text
    assert not any(secret in said for secret in (SECRET, READER_SECRET, "another-secret"))


def test_a_server_that_is_not_there(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match="cannot be reached; try again later"):
        list(named("x").names())


def test_plain_http_goes_to_this_machine_only(s3: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:9000")
    with pytest.raises(RemoteError, match=r"plain http to 10\.0\.0\.1 .* AWS_ALLOW_HTTP=true"):
        named("x")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    named("x")


def test_a_profile_of_aws_files(
    s3: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, keys = tmp_path / "config", tmp_path / "credentials"
    endpoint = f"http://127.0.0.1:{s3.port}"
    config.write_text(f"[profile team]\nregion = us-east-1\nendpoint_url = {endpoint}\n")
    keys.write_text(f"[team]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    for name in s3.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "team")
    named(tmp_path.name).put("f", b"1")
    assert list(named(tmp_path.name).names()) == ["f"]
    keys.write_text("no section")
    with pytest.raises(RemoteError, match="AWS_SHARED_CREDENTIALS_FILE"):
        named("x")


def test_azure_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(RemoteError, match="no credentials; set AZURE_STORAGE_ACCOUNT_NAME"):
        Bucket(Address("az", "container", "x"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match="s3:// needs obstore, the extra cloud: "):
        named("x")
