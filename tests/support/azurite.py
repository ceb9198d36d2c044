"""A real server of Azure's blobs, azurite, on loopback, in memory; it comes from npm."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate

from tests.support.ports import free_port

CONTAINER = "container1"
ACCOUNT = "devstoreaccount1"  # and its key: azurite's own, in its documentation
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PATIENCE = 240.0  # seconds until it must answer


@dataclass(frozen=True)
class Azurite:
    """`port` speaks to clients of blobs; the container is there."""

    port: int

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client's environment says; `port`: of what stands in front of the server."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{ACCOUNT}",
        }


def program() -> str | None:
    return shutil.which("azurite-blob")


@contextmanager
def running() -> Iterator[Azurite]:
    found = program()
    assert found is not None, "azurite is not installed"
    port = free_port()
    line = [found, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    line += ["--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while not _made(port):
            assert process.poll() is None and time.monotonic() < until, "azurite does not answer"
            time.sleep(0.1)
        yield Azurite(port)
    finally:
        process.kill()
        process.wait()


def _made(port: int) -> bool:
    """Make the container, by a request that is signed with the account's key."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    head = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    text = "PUT" + "\n" * 12 + head + f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}",
        "Content-Length": "0",
    }
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        client.request("PUT", f"/{ACCOUNT}/{CONTAINER}?restype=container", headers=headers)
        return client.getresponse().status == 201
    except OSError:
        return False
    finally:
        client.close()
