"""A server of Google's object store, on loopback, in memory: its XML interface, after its manual,
for what clients of buckets ask.

A put takes its condition from the generation (`x-goog-if-generation-match`; 0: no such object);
`If-Match`, which reads know, does nothing there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from threading import RLock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.http_servers import serving

BUCKET = "bucket1"
PAGE = 1000  # objects of a listing


@dataclass(frozen=True)
class Stored:
    """One version of an object; `e_tag` is its MD5, so the same bytes have the same one again."""

    data: bytes
    generation: int
    modified: datetime

    @property
    def e_tag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass
class GoogleStorage:
    """`port` speaks to clients; the bucket is there."""

    port: int = 0
    page: int = PAGE
    lock: RLock = field(default_factory=RLock)
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000_000_000_000))

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a client's environment says; `port`: of what stands in front of the server."""
        account = {
            "gcs_base_url": f"http://127.0.0.1:{port or self.port}",
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        return {
            "GOOGLE_BASE_URL": str(account["gcs_base_url"]),
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
        }

    def put(self, name: str, data: bytes, expected: str | None) -> Stored:
        """Make a new version; raises Refused unless the generation is the `expected` one."""
        with self.lock:
            there = self.objects.get(name)
            if expected is not None and int(expected) != (there.generation if there else 0):
                raise Refused(412, "PreconditionFailed")
            made = Stored(data, next(self.numbers), datetime.now(UTC).replace(microsecond=0))
            self.objects[name] = made
            return made


class Refused(Exception):
    """An answer with an error: status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: GoogleStorage

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        address = urlsplit(self.path)
        self.asked = parse_qs(address.query, keep_blank_values=True)
        bucket, _, name = unquote(address.path).removeprefix("/").partition("/")
        try:
            if bucket != BUCKET:
                raise Refused(404, "NoSuchBucket")
            self._routed(name, body)
        except Refused as error:
            self._xml(
                f"<Error><Code>{error.code}</Code><Message>no</Message></Error>", error.status
            )

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _routed(self, name: str, body: bytes) -> None:
        if self.command in ("GET", "HEAD"):
            return self._read(name) if name else self._list()
        if self.command == "PUT" and "partNumber" in self.asked:
            return self._part(body)
        if self.command == "PUT":
            expected = self.headers.get("x-goog-if-generation-match")
            return self._send(200, b"", **_told(self.storage.put(name, body, expected)))
        if self.command == "POST":
            return self._begin(name) if "uploads" in self.asked else self._complete(name, body)
        return self._delete(name)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _xml(self, text: str, status: int = 200) -> None:
        body = f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode()
        self._send(status, body, Content_Type="application/xml; charset=UTF-8")

    def _read(self, name: str) -> None:
        found = self.storage.objects.get(name)
        if found is None:
            raise Refused(404, "NoSuchKey")
        if self.headers.get("If-Match", found.e_tag) != found.e_tag:
            raise Refused(412, "PreconditionFailed")
        headers, size = {"Accept_Ranges": "bytes", **_told(found)}, len(found.data)
        if self.command == "HEAD":
            self.send_response(200)
            for key, value in {"Content_Length": str(size), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            return self.end_headers()
        if "Range" not in self.headers:
            return self._send(200, found.data, **headers)
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or size) + 1, size)
        if begin >= size:
            raise Refused(416, "InvalidRange")
        headers["Content_Range"] = f"bytes {begin}-{end - 1}/{size}"
        return self._send(206, found.data[begin:end], **headers)

    def _list(self) -> None:
        prefix, after = (self.asked.get(k, [""])[0] for k in ("prefix", "continuation-token"))
        with self.storage.lock:
            names = sorted(n for n in self.storage.objects if n.startswith(prefix) and n > after)
            rows = [(name, self.storage.objects[name]) for name in names[: self.storage.page]]
        token = escape(rows[-1][0]) if len(names) > len(rows) else ""
        found = "".join(
            f"<Contents><Key>{escape(name)}</Key><Generation>{one.generation}</Generation>"
            f"<LastModified>{one.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{one.e_tag}</ETag><Size>{len(one.data)}</Size></Contents>"
            for name, one in rows
        )
        self._xml(
            f"<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{BUCKET}</Name>"
            f"<Prefix>{escape(prefix)}</Prefix><IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
            f"<NextContinuationToken>{token}</NextContinuationToken>{found}</ListBucketResult>"
        )

    def _begin(self, name: str) -> None:
        with self.storage.lock:
            number = f"upload-{next(self.storage.numbers)}"
            self.storage.uploads[number] = {}
        self._xml(
            f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key>"
            f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
        )

    def _upload(self) -> dict[int, bytes]:
        try:
            return self.storage.uploads[self.asked["uploadId"][0]]
        except KeyError:
            raise Refused(404, "NoSuchUpload") from None

    def _part(self, body: bytes) -> None:
        self._upload()[int(self.asked["partNumber"][0])] = body
        self._send(200, ETag=_tag(body))

    def _complete(self, name: str, body: bytes) -> None:
        there, data = self._upload(), list[bytes]()
        for part in ElementTree.fromstring(body):
            said = {field.tag.rpartition("}")[2]: field.text for field in part}
            data.append(there.get(int(said["PartNumber"] or 0), b""))
            if said["ETag"] != _tag(data[-1]):
                raise Refused(400, "InvalidPart")
        with self.storage.lock:
            expected = self.headers.get("x-goog-if-generation-match")
            made = self.storage.put(name, b"".join(data), expected)
            del self.storage.uploads[self.asked["uploadId"][0]]
        self._xml(
            f"<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key>"
            f"<ETag>{made.e_tag}</ETag></CompleteMultipartUploadResult>"
        )

    def _delete(self, name: str) -> None:
        with self.storage.lock:
            if "uploadId" in self.asked:
                self._upload()
                del self.storage.uploads[self.asked["uploadId"][0]]
            elif self.storage.objects.pop(name, None) is None:
                raise Refused(404, "NoSuchKey")
        self._send(204)


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _told(one: Stored) -> dict[str, str]:
    return {
        "ETag": one.e_tag,
        "x-goog-generation": str(one.generation),
        "Last-Modified": format_datetime(one.modified, usegmt=True),
    }


@contextmanager
def running() -> Iterator[GoogleStorage]:
    storage = GoogleStorage()
    with serving(_Handler, storage=storage) as storage.port:
        yield storage
