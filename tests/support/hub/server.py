"""The HTTP interface of a hub, as huggingface_hub calls it; it counts what is asked, and fails to
order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_servers import serving
from tests.support.hub.answering import Answering
from tests.support.hub.faults import Hub
from tests.support.hub.repositories import (
    Blob,
    Refused,
    Repositories,
    blob_of,
    folders_and_files,
    is_lfs,
)

_PART = 64 << 10


class _Handler(Answering):
    hub: Hub

    def _answer(self) -> None:
        hub, self.cut = self.hub, None
        line = f"{self.command} {self.path}"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with hub.repositories.lock:
            hub.log.append(f"{line} {self.headers.get('Range', '')}")
            hub.tokens_seen.append(token)
        time.sleep(hub.delay)
        body, fault = self._body(), hub.fault_of(line)
        if fault and fault.then:
            fault.then()
        if fault and fault.location:
            self._send(302, b"", Location=fault.location, **fault.headers)
        elif fault and fault.status:
            self._send(fault.status, b'{"error": "to order"}', **fault.headers)
        else:
            self.cut = fault.cut if fault else None
            try:
                self._routed(body, token)
            except Refused as error:
                self._refuse(error)

    def _routed(self, body: bytes, token: str) -> None:
        user = self.hub.repositories.tokens.get(token)
        if token and user is None:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        raw = urlsplit(self.path).path
        for pattern, route in _ROUTES:
            if found := re.fullmatch(pattern, raw):
                signed = raw.startswith("/lfs/")  # an address that the hub gave is a right
                if self.command not in ("GET", "HEAD") and user is None and not signed:
                    raise Refused(401, "", "Log in first")
                route(self, body, user, *map(unquote, found.groups("")))
                return
        raise Refused(404, "", f"no route {self.command} {raw}")

    def _whoami(self, body: bytes, user: str | None) -> None:
        if user is None:
            raise Refused(401, "", "Log in first")
        self._json({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    def _yaml(self, body: bytes, user: str | None) -> None:
        self._json({"errors": [], "warnings": []})

    def _create(self, body: bytes, user: str | None) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or user}/{asked['name']}"
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        new = self.hub.repositories.create(name, user, private)
        url = f"{self.hub.url}/{name}"
        self._json({"url": url, "name": name, "id": name}, 200 if new else 409)

    def _info(self, body: bytes, user: str | None, name: str, revision: str = "") -> None:
        repository = self.hub.repositories.of(name, user)
        commit = repository.commit_of(revision or "main")
        self._json(
            {
                "_id": "0", "id": name, "modelId": name, "sha": commit.sha, "tags": [],
                "private": repository.readers is not None, "gated": repository.gated,
                "disabled": False, "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            }
        )  # fmt: skip

    def _tree(self, body: bytes, user: str | None, name: str, revision: str, path: str) -> None:
        commit = self.hub.repositories.of(name, user, reading=True).commit_of(revision)
        prefix = f"{path}/" if path else ""
        asked = parse_qs(urlsplit(self.path).query)
        files = sorted(commit.files.items())
        found = [blob.entry(file) for file, blob in files if file.startswith(prefix)]
        if asked.get("recursive", [""])[0].lower() != "true":
            found = folders_and_files(found, prefix)
        if prefix and not found:
            raise Refused(404, "EntryNotFound", f"{path} does not exist")
        at, headers = int(asked.get("cursor", ["0"])[0]), dict[str, Any]()
        if at + self.hub.page < len(found):
            where = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true"
            headers["Link"] = f'<{where}&cursor={at + self.hub.page}>; rel="next"'
        self._json(found[at : at + self.hub.page], **headers)

    def _paths(self, body: bytes, user: str | None, name: str, revision: str) -> None:
        commit = self.hub.repositories.of(name, user, reading=True).commit_of(revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(body) if is_json else parse_qs(body.decode())
        paths = [path for path in asked.get("paths", []) if path in commit.files]
        self._json([commit.files[path].entry(path) for path in paths])

    def _preupload(self, body: bytes, user: str | None, name: str, revision: str) -> None:
        files = self.hub.repositories.of(name, user).commit_of(revision).files
        answers = []
        for asked in json.loads(body)["files"]:
            mode = "lfs" if is_lfs(asked["path"], asked["size"]) else "regular"
            answer = {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
            if there := files.get(asked["path"]):
                answer["oid"] = there.sha256 if there.lfs else there.oid
            answers.append(answer)
        self._json({"files": answers})

    def _batch(self, body: bytes, user: str | None, name: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.repositories.objects:
                href = f"{self.hub.url}/lfs/{asked['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _object(self, body: bytes, user: str | None, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "", "another SHA-256")
        self.hub.repositories.objects[oid] = body
        self._send(200, b"")

    def _commit(self, body: bytes, user: str | None, name: str, revision: str) -> None:
        hub = self.hub.repositories
        hub.of(name, user)
        title, parent, files = "", None, dict[str, Blob | None]()
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                title, parent = value["summary"], value.get("parentCommit")
            elif key == "file":
                files[value["path"]] = blob_of("", base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[value["path"]] = self._sent(value["oid"])
            else:
                files[value["path"]] = None
        asked = parse_qs(urlsplit(self.path).query)
        branch = revision
        answer: dict[str, Any] = {"success": True, "hookOutput": ""}
        if asked.get("create_pr") == ["1"]:
            repository = hub.edit(name)
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            branch = f"refs/pr/{number}"
            repository.refs[branch] = repository.refs[revision]
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{number}"
        sha = hub.commit(name, branch, files, title, parent)
        self._json(answer | {"commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def _sent(self, oid: str) -> Blob:
        """A large file that was sent before the commit."""
        if oid in self.hub.repositories.objects:
            return Blob(self.hub.repositories.objects[oid], True)
        if self.hub.xet and (found := self.hub.xet.find(oid)):
            return Blob(found[1], True, xet=found[0])
        raise Refused(400, "", f"LFS object {oid} is not there")

    def _xet_token(self, body: bytes, user: str | None, name: str, what: str, rev: str) -> None:
        self.hub.repositories.of(name, user, reading=True).commit_of(rev)
        if self.hub.xet is None or (what == "write" and user is None):
            raise Refused(401, "", "Log in first")
        said, headers = self.hub.xet.token()
        self._json(said, 200, **headers)

    def _branch(self, body: bytes, user: str | None, name: str, branch: str) -> None:
        repository = self.hub.repositories.of(name, user)
        if branch in repository.refs:
            raise Refused(409, "", "Reference already exists")
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        repository.refs[branch] = repository.commit_of(start).sha
        self._json({})

    def _resolve(self, body: bytes, user: str | None, name: str, revision: str, path: str) -> None:
        commit = self.hub.repositories.of(name, user, reading=True).commit_of(revision)
        if path not in commit.files:
            raise Refused(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.sha)
        blob = commit.files[path]
        tag = f'"{blob.sha256 if blob.lfs else blob.oid}"'
        headers = {"X_Repo_Commit": commit.sha, "Accept_Ranges": "bytes", "ETag": tag}
        if blob.lfs:
            headers |= {"X_Linked_Etag": tag, "X_Linked_Size": str(blob.size)}
        if blob.xet:
            route = f"{self.hub.url}/api/models/{name}/xet-read-token/{commit.sha}"
            headers |= {"X_Xet_Hash": blob.xet, "Link": f'<{route}>; rel="xet-auth"'}
            bridge = self.hub.url.replace("127.0.0.1", "localhost")  # another host, to a client
            self._send(302, b"", Location=f"{bridge}/bridge/{blob.sha256}", **headers)
        else:
            self._ranges(name, path, blob, headers)

    def _bridge(self, body: bytes, user: str | None, sha256: str) -> None:
        """What gives files of Xet to who speaks plain HTTP; its addresses are rights."""
        repositories = self.hub.repositories
        name, path, blob = repositories.in_xet(sha256)
        self._ranges(name, path, blob, {"Accept_Ranges": "bytes"})

    def _ranges(self, name: str, path: str, blob: Blob, headers: dict[str, str]) -> None:
        data, status, size = blob.data, 200, len(blob.data)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
            if begin >= size:
                raise Refused(416, "", "no such range", Content_Range=f"bytes */{size}")
            data, status = data[begin:end], 206
            headers["Content_Range"] = f"bytes {begin}-{end - 1}/{size}"
        if self.command == "GET":
            key = f"{name}/{path}"
            with self.hub.repositories.lock:
                self.hub.sent[key] = self.hub.sent.get(key, 0) + len(data)
        self._send(status, data, **headers)


_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/api/whoami-v2", _Handler._whoami),
    (r"/api/validate-yaml", _Handler._yaml),
    (r"/api/repos/create", _Handler._create),
    (rf"/api/models/{_NAME}", _Handler._info),
    (rf"/api/models/{_NAME}/revision/([^/]+)", _Handler._info),
    (rf"/api/models/{_NAME}/tree/([^/]+)(?:/(.*))?", _Handler._tree),
    (rf"/api/models/{_NAME}/paths-info/([^/]+)", _Handler._paths),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", _Handler._preupload),
    (rf"/api/models/{_NAME}/commit/([^/]+)", _Handler._commit),
    (rf"/api/models/{_NAME}/branch/([^/]+)", _Handler._branch),
    (rf"/api/models/{_NAME}/xet-(read|write)-token/([^/]+)", _Handler._xet_token),
    (r"/bridge/([0-9a-f]{64})", _Handler._bridge),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"/lfs/([0-9a-f]{64})", _Handler._object),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
]


@contextmanager
def running(tokens: dict[str, str]) -> Iterator[Hub]:
    """Run a hub on a free port; `tokens` maps a token to its user."""
    hub = Hub(Repositories(tokens))
    with serving(_Handler, hub=hub) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub
