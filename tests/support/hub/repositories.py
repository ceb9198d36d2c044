"""What a hub knows: repositories, their commits and files, and whose tokens open them."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import RLock
from typing import Any

LFS_FROM = 100_000  # bytes; smaller files stand in the commit itself, but for weights


class Refused(Exception):
    """An answer with an error: status, the hub's code for it, a message."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


@dataclass(frozen=True)
class Blob:
    """One version of a file."""

    data: bytes
    lfs: bool
    said: int | None = None  # the size that the hub tells, where it lies
    xet: str = ""  # its hash in Xet, where it is kept there

    @property
    def size(self) -> int:
        return len(self.data) if self.said is None else self.said

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """The git object: of the file, or of the pointer in its place."""
        data = f"oid sha256:{self.sha256}\n".encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """What a listing says of it."""
        found: dict[str, Any] = {
            "type": "file", "oid": self.oid, "size": self.size, "path": path,
        }  # fmt: skip
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        if self.xet:
            found["xetHash"] = self.xet
        return found


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: Mapping[str, Blob]


@dataclass
class Repository:
    """`readers` None: everybody's; `gated`: it is seen by all, and read by nobody else."""

    readers: set[str] | None = None
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> Commit:
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[sha]


class Repositories:
    """All repositories of a hub. Thread-safe."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self.tokens = dict(tokens)  # token -> its user
        self.lock = RLock()
        self.objects: dict[str, bytes] = {}  # what was sent by LFS, by SHA-256
        self._all: dict[str, Repository] = {}
        self._count = itertools.count()

    def create(self, name: str, user: str | None, private: bool = False) -> bool:
        """Make a repository; tells whether it was not there."""
        with self.lock:
            if name in self._all:
                return False
            self._all[name] = Repository({user or ""} if private else None)
            rules = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
            self.commit(name, "main", {".gitattributes": Blob(rules, False)}, "initial commit")
            return True

    def of(self, name: str, user: str | None, reading: bool = False) -> Repository:
        """Return a repository as a user may see it; raises Refused."""
        found = self._all.get(name)
        if found is None or (found.readers is not None and user not in found.readers):
            status = 401 if user is None else 404
            raise Refused(status, "RepoNotFound", "Repository not found")
        if found.gated and reading and user not in (found.readers or ()):
            raise Refused(403, "GatedRepo", f"Access to model {name} is restricted")
        return found

    def names(self) -> list[str]:
        return [*self._all]

    def edit(self, name: str) -> Repository:
        """A repository, to be changed by a test."""
        return self._all[name]

    def commit(
        self,
        name: str,
        branch: str,
        files: Mapping[str, Blob | None],
        title: str,
        parent: str | None = None,
    ) -> str:
        """Add and, where None is given, remove files; raises Refused where `parent` is old."""
        with self.lock:
            repository = self._all[name]
            head = repository.refs.get(branch)
            if parent and head and not head.startswith(parent):
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            before = repository.commits[head].files if head else {}
            after = {**before, **{path: blob for path, blob in files.items() if blob}}
            for path, blob in files.items():
                if blob is None:
                    after = {p: b for p, b in after.items() if p != path and not _below(p, path)}
            text = repr(
                (next(self._count), title, head, sorted((p, b.oid) for p, b in after.items()))
            )
            sha = hashlib.sha1(text.encode()).hexdigest()
            repository.commits[sha] = Commit(sha, title, head, after)
            repository.refs[branch] = sha
            return sha

    def upload(self, name: str, folder: Path, message: str = "upload") -> str:
        """Put the files of a folder into a repository, which is made if need be."""
        self.create(name, None)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return self.commit(
            name,
            "main",
            {p.relative_to(folder).as_posix(): blob_of(p.name, p.read_bytes()) for p in paths},
            message,
        )

    def in_xet(self, sha256: str) -> tuple[str, str, Blob]:
        """Return where a file is that is kept in Xet; raises Refused."""
        for name, repository in self._all.items():
            for commit in repository.commits.values():
                for path, blob in commit.files.items():
                    if blob.xet and blob.sha256 == sha256:
                        return name, path, blob
        raise Refused(404, "EntryNotFound", "no such file")

    def lie(self, name: str, path: str, size: int) -> None:
        """Let the hub tell another size of a file than it sends."""
        repository = self._all[name]
        head = repository.commits[repository.refs["main"]]
        files = {**head.files, path: replace(head.files[path], said=size)}
        repository.commits[head.sha] = replace(head, files=files)


def is_lfs(path: str, size: int) -> bool:
    return size >= LFS_FROM or bool(re.search(r"\.(safetensors|bin|pt)$", path))


def blob_of(path: str, data: bytes) -> Blob:
    return Blob(data, is_lfs(path, len(data)))


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def folders_and_files(entries: Iterable[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """A listing of one folder: its files, and its folders in place of theirs."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        first, slash, _ = entry["path"][len(prefix) :].partition("/")
        folder = {"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + first}
        found.setdefault(first, folder if slash else entry)
    return list(found.values())
