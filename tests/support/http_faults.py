"""Stands between a client and an HTTP server, hands requests on, and fails some of them to order.

Bytes go through as they are: a signed request stays signed, as its Host is this proxy's from the
start.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Self

Fault = Callable[[str, str], "bytes | int | None"]
# of a method and path: an answer to give instead, or after how many bytes of the server's answer
# the connection is cut (LOST: not even its head gets through), or None: nothing happens
LOST = -1


def status(code: int, what: str = "", *headers: str) -> bytes:
    """An answer with an error, as S3 words it."""
    body = f"<Error><Code>{what}</Code><Message>to order</Message></Error>" if what else ""
    lines = [f"HTTP/1.1 {code} Fault", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


@dataclass
class Proxy:
    """`seen` has a line "METHOD PATH" per request; `received` counts bytes from the server."""

    target: int
    delay: float = 0.0  # seconds before each request goes on
    fault: Fault = field(default=lambda method, path: None)
    seen: list[str] = field(default_factory=list)
    received: int = 0

    def __enter__(self) -> Self:
        self._lock, self._clients, self._open = threading.Lock(), set[socket.socket](), True
        self._server = _Listener(("127.0.0.1", 0), self._serve)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody waits for clients any more when the socket is closed.

        A thread that is left in accept() goes on after a stop of the process with whatever socket
        has that number by then, so it would take the clients of a later proxy.
        """
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:
            self._open = False
            for client in self._clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def failing(self, times: int, answer: bytes | int, only: str = "") -> None:
        """Fail the next requests whose "METHOD PATH" has `only` in it."""
        left = [times]

        def fault(method: str, path: str) -> bytes | int | None:
            with self._lock:
                if only in f"{method} {path}" and left[0]:
                    left[0] -= 1
                    return answer
            return None

        self.fault = fault

    def _serve(self, client: socket.socket, *_: object) -> None:
        with self._lock:
            if not self._open:
                return
            self._clients.add(client)
        try:
            with client.makefile("rb") as lines, suppress(OSError):
                while self._one(client, lines):
                    pass
        finally:
            with self._lock:
                self._clients.remove(client)

    def _one(self, client: socket.socket, lines: IO[bytes]) -> bool:
        head, length = _head(lines)
        if not head:
            return False
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        body = lines.read(length)
        with self._lock:
            self.seen.append(f"{method} {path}")
        wanted = self.fault(method, path)
        if self.delay:
            time.sleep(self.delay)
        if isinstance(wanted, bytes):
            client.sendall(wanted)
            return False
        return self._hand_on(client, method, head + body, wanted)

    def _hand_on(self, client: socket.socket, method: str, request: bytes, cut: int | None) -> bool:
        with (
            socket.create_connection(("127.0.0.1", self.target)) as server,
            server.makefile("rb") as answer,
        ):
            server.sendall(request)
            head, length = _head(answer)
            while head.startswith(b"HTTP/1.1 100"):
                head, length = _head(answer)
            if cut == LOST or not head:
                return False
            client.sendall(head)
            if method != "HEAD" and b"\r\ntransfer-encoding: chunked" in head.lower():
                while line := answer.readline():
                    size = int(line, 16)
                    client.sendall(line + answer.read(size + 2))
                    if not size:
                        break
                return cut is None
            left = 0 if method == "HEAD" else length
            left = left if cut is None else min(cut, left)
            while left:
                block = answer.read1(min(left, 1 << 20))
                if not block:
                    return False
                client.sendall(block)
                left -= len(block)
                with self._lock:
                    self.received += len(block)
        return cut is None


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], serve: Callable[..., None]) -> None:
        super().__init__(address, serve)  # type: ignore[arg-type]  # called as a handler is made


def _head(lines: IO[bytes]) -> tuple[bytes, int]:
    """Read a head; returns it and how long the body is."""
    head, length = b"", 0
    while line := lines.readline():
        head += line
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if line == b"\r\n":
            return head, length
    return b"", 0
