"""Files of a hub that lie in Xet: a store of chunks in a folder, as hf_xet reads and writes one.

    local://FOLDER    what the client is told instead of the address of Xet's servers

Its shards say which file has which SHA-256; their form is Xet's own.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER, _ENTRY = 48, 48  # bytes of a shard's header, and of each of its entries
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True)
class Xet:
    """`folder` is below a test's own."""

    folder: Path

    @property
    def url(self) -> str:
        return f"local://{self.folder}"

    def token(self) -> tuple[dict[str, str | int], dict[str, str]]:
        """An answer that lets a client in: what it says, and its headers."""
        until, token = int(time.time()) + 3600, "of-xet-alone"
        headers = {"X_Xet_Cas_Url": self.url, "X_Xet_Access_Token": token}
        said: dict[str, str | int] = {"casUrl": self.url, "accessToken": token, "exp": until}
        return said, {**headers, "X_Xet_Token_Expiration": str(until)}

    def put(self, data: bytes) -> str:
        """Put a file; returns its hash in Xet."""
        import hf_xet

        with hf_xet.XetSession().new_upload_commit(endpoint=self.url) as commit:
            handle = commit.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256)
        return str(handle.result().xet_info.hash)

    def find(self, sha256: str) -> tuple[str, bytes] | None:
        """Return the hash in Xet, and the content, of a file that a client has put."""
        for path in self.folder.rglob("*.mdb"):
            for found, name, size in _files(path.read_bytes()):
                if found == sha256:
                    return name, self._read(name, size)
        return None

    def _read(self, name: str, size: int) -> bytes:
        import hf_xet

        group = hf_xet.XetSession().new_download_stream_group(endpoint=self.url)
        parts = group.download_stream(hf_xet.XetFileInfo(name, size), 0, size)
        return b"".join(bytes(part) for part in parts)


def _files(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """Yield SHA-256, hash in Xet, and bytes of the files of a shard."""
    at = _HEADER
    while (name := shard[at : at + 32]) != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        at += _ENTRY
        size = sum(struct.unpack_from("<I", shard, at + _ENTRY * i + 36)[0] for i in range(count))
        at += _ENTRY * count * (2 if flags & _VERIFIED else 1)
        if flags & _WITH_SHA256:
            yield _hex(shard[at : at + 32]), _hex(name), size
            at += _ENTRY


def _hex(digest: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
