"""One table of hostile files: name -> what puts one in the place of a good file.

`ANYTHING` may stand wherever a file is opened; the other tables belong to a kind of content. Each
is found by a reader in little time and memory, and refused in words that name the file. What a
fuzzer finds becomes an entry here.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Make = Callable[[Path], object]
MANY = (1 << 22) + 1  # values; more than are parsed
ROOM = 1 << 30  # of address space, beyond what the process has


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(before)


def _sparse(size: int) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def text(value: str | bytes) -> Make:
    return lambda path: path.write_bytes(value.encode() if isinstance(value, str) else value)


def many(value: str, before: str = "[", after: str = "0]") -> Make:
    """More values than are parsed; made only when they are asked for."""
    return lambda path: path.write_text(before + f"{value}," * MANY + after)


ANYTHING: dict[str, Make] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "empty": text(b""),
    "one byte": text(b"\x00"),
    "noise": text(bytes(range(256)) * 40),
    "hole": _sparse(1 << 40),
}

JSON: dict[str, Make] = {
    "not closed": text("{"),
    "deep lists": text("[" * 300_000),
    "deep objects": text('{"a":' * 300_000 + "1" + "}" * 300_000),
    "many numbers": many("0"),
    "many objects": many("{}", '{"a": [', "{}]}"),
    "many members": many('"a":0', "{", '"a":0}'),
    "twice": text('{"a": 1, "a": 2}'),
    "long number": text('{"a": ' + "9" * 10_000 + "}"),
    "half a character": text('{"\\ud800": "\\udfff"}'),
    "zero byte": text('{"a\\u0000b": "\\u0000"}'),
    "broken UTF-8": text(b'{"\xff": 1}'),
    "UTF-16": text("{}".encode("utf-16")),
    "null": text("null"),
    "number": text("17"),
    "text": text('"x"'),
    "list": text("[]"),
}


def header(document: object, data: bytes = b"", size: int | None = None) -> bytes:
    """A safetensors file; `size` lies about the length of its header."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(raw) if size is None else size) + raw + data


def tensor(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SAFETENSORS: dict[str, Make] = {
    "no such header": text(header({}, size=1 << 63)),
    "header past the end": text(header({}, size=90_000_000)),
    "header of 100 MB, absent": _sparse(99_000_000),
    "deep": text(header(b"[" * 300_000)),
    "many": lambda path: path.write_bytes(header(b'{"a": [' + b"0," * MANY + b"0]}")),
    "list": text(header([])),
    "a name twice": text(header(b'{"a": %s, "a": %s}' % ((b'{"dtype": "U8"}',) * 2))),
    "no offsets": text(header({"a": {"dtype": "F32", "shape": [1]}})),
    "huge shape": text(header({"a": tensor([1 << 40, 1 << 40], [0, 4])}, b"1234")),
    "no elements, huge": text(header({"a": tensor([0, 1 << 61], [0, 0])})),
    "a hundred dimensions": text(header({"a": tensor([1] * 100, [0, 4])}, b"1234")),
    "long number": text(header(b'{"a": {"shape": [' + b"9" * 9000 + b"]}}")),
    "negative": text(header({"a": tensor([-1, -1], [0, 4])}, b"1234")),
    "fraction": text(header({"a": tensor([1.0], [0, 4])}, b"1234")),
    "true": text(header({"a": tensor([True], [0, 4])}, b"1234")),
    "backwards": text(header({"a": tensor([1], [4, 0])}, b"1234")),
    "overlap": text(header({"a": tensor([1], [0, 4]), "b": tensor([1], [0, 4])}, b"1234")),
    "hole": text(header({"a": tensor([1], [4, 8])}, bytes(8))),
    "dtype of lists": text(header({"a": tensor([1], [0, 4], ["F32"])}, b"1234")),
    "name of control characters": text(header({"\x1b[2J": tensor([1], [0, 4])}, b"1234")),
    "long name": text(header({"x" * 100_000: tensor([1], [0, 4])}, b"1234")),
    "empty name": text(header({"": tensor([1], [0, 4])}, b"1234")),
    "half a name": text(header(b'{"\\ud800": {"dtype": "F32", "shape": [1], '
                               b'"data_offsets": [0, 4]}}', b"1234")),
}  # fmt: skip


def _zip(compression: int, size: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as file:
        file.writestr("archive/data.pkl", bytes(size))
        file.writestr("archive/version", "3")
    return made.getvalue()


class Runs:
    """A pickle that runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch RAN",)


PICKLES: dict[str, Make] = {
    "command": text(pickle.dumps(Runs())),
    "bomb": lambda path: path.write_bytes(_zip(zipfile.ZIP_DEFLATED, 200 << 20)),
    "zip of nothing": text(_zip(zipfile.ZIP_STORED, 10)),
    "bytes without end": text(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x."),
    "deep": text(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "list": text(pickle.dumps([1, 2])),
}


def _npy(shape: str, dtype: str = "|u1") -> bytes:
    raw = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + b"1234"


MASKS: dict[str, Make] = {
    "huge": text(_npy(f"({1 << 62},)")),
    "negative": text(_npy("(-4,)")),
    "floats": text(_npy("(1,)", "<f4")),
    "two dimensions": text(_npy("(2, 2)")),
    "deep": text(_npy("(" * 3000 + ")" * 3000)),
    "command": text(_npy("()", "|O")[:-4] + pickle.dumps(Runs())),
    "code": text(_npy("__import__('os').system('touch RAN')")),
    "zip": text(_zip(zipfile.ZIP_DEFLATED, 1000)),
}

YAML: dict[str, Make] = {
    "laughs": text("a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24))),
    "itself": text("&a [*a]"),
    "deep": text("[" * 50_000),
    "deep blocks": text("".join(f"{' ' * i}a:\n" for i in range(600))),
    "object": text("!!python/object/apply:os.system ['touch RAN']"),
    "twice": text("merge_method: linear\nmerge_method: ties\n"),
    "long number": text("merge_method: linear\nmodels: " + "9" * 9000),
    "sexagesimal": text("merge_method: linear\nbase_model: " + "1:" * 5000 + "1"),
    "date": text("merge_method: 2001-99-99\n"),
    "binary": text("merge_method: !!binary =\n"),
    "set": text("!!set {a, b}"),
    "zero byte": text("merge_method: a\x00b"),
    "two documents": text("a: 1\n---\nb: 2\n"),
    "large": text("a: " + "x" * (1 << 20)),
    "long path": text("merge_method: ties\nbase_model: " + "é" * 300 + "\nmodels: [{model: a}]"),
    "half a path": text('{merge_method: linear, models: [{model: "\\ud800"}, {model: a}]}'),
    "zero byte in a path": text('{merge_method: linear, models: [{model: "a\\0"}, {model: a}]}'),
}  # fmt: skip


@contextmanager
def bounded(room: int = ROOM) -> Iterator[None]:
    """Fail what takes more memory than `room`: it ends in MemoryError, which no reader expects."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def put(path: Path, make: Make) -> None:
    """Put a hostile file where a good one was, or none."""
    path.unlink(missing_ok=True)
    make(path)
