"""How the hub reads a request and writes an answer, or a part of one."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.hub.repositories import Refused


class Answering(BaseHTTPRequestHandler):
    """`cut`: bytes of the answer after which the connection ends."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer of two small packets waits for 40 ms
    cut: int | None = None

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_DELETE = do_GET

    def _answer(self) -> None:
        raise NotImplementedError

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[: self.cut])
        self.close_connection = True

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _refuse(self, error: Refused) -> None:
        headers = {"X_Error_Code": error.code, "X_Error_Message": str(error), **error.headers}
        self._json({"error": str(error)}, error.status, **headers)
