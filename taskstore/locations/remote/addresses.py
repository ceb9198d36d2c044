"""What a user may write where a path is expected: a hub id, or an address of a hub or a bucket.

    org/name[@REVISION]               a model of the Hugging Face hub, where no such path exists
    hf://org/name[@REVISION][/FOLDER] the same, and folders in it
    s3://BUCKET/PREFIX  gs://...  az://...

A path that exists, and one that begins with "." or "/" or "~", is always a local one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol
from urllib.parse import quote, unquote

from taskstore.errors import BadName
from taskstore.locations.base import Location, PathLike

HUB = "hf"
BUCKETS = ("s3", "gs", "az")
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*):/{1,2}(?P<rest>.*)", re.DOTALL)
_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REFS = re.compile(r"refs/(?:pr/\d+|convert/\w+)", re.ASCII)
_REVISION = rf"@(?P<revision>{_REFS.pattern}|[^/@\s]{{1,250}})"
_ID = re.compile(rf"(?P<place>{_PART}/{_PART})(?:{_REVISION})?", re.ASCII)
_HUB = re.compile(
    rf"(?P<place>{_PART}(?:/{_PART})?)(?:{_REVISION})?(?:/(?P<path>.*))?", re.ASCII | re.DOTALL
)
_BUCKET = re.compile(r"(?P<place>[a-z0-9][a-z0-9._-]{1,62})(?:/(?P<path>.*))?", re.DOTALL)
_OTHER_KINDS = ("datasets/", "spaces/")


@dataclass(frozen=True)
class Address:
    """Where something lies: a repository and its revision, or a bucket, and a folder in it.

    `place` is org/name, or the bucket; `path` has no "/" at its ends; "" is all of the place.
    """

    scheme: str
    place: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        revision = self.revision or ""
        quoted = revision if _REFS.fullmatch(revision) else quote(revision, safe="")
        pinned = f"@{quoted}" if revision else ""
        below = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{self.place}{pinned}{below}"

    @property
    def name(self) -> str:
        """How what lies there is called: after its last folder, repository or bucket."""
        return (self.path or self.place).rsplit("/", 1)[-1]

    def at(self, revision: str) -> Address:
        """The same place at a revision."""
        return replace(self, revision=revision)


class Remote(Location, Protocol):
    """A location that is not on this machine."""

    @property
    def address(self) -> Address:
        """Where it is, with the commit for a repository's revision."""

    def sizes(self) -> Mapping[str, int]:
        """List the files with their bytes, sorted by name. Raises OSError."""


def parse(text: PathLike) -> Address | None:
    """Return the address that a user means, or None for a local path.

    A `Path` that was made of an address has lost a "/" and is taken for it. Raises BadName for an
    address that is none.
    """
    text = os.fspath(text)
    found = _SCHEME.fullmatch(text)
    if found and found["scheme"] in (HUB, *BUCKETS):
        return _of_scheme(found["scheme"], found["rest"], text)
    if found and "://" in text and not os.path.lexists(text):
        raise BadName("address", text, f"is of no known kind; there are {', '.join(SCHEMES)}")
    named = _ID.fullmatch(text)
    if named is None or os.path.lexists(text) or os.path.lexists(named["place"]):
        return None
    if any(part in (".", "..") or ".." in part for part in named["place"].split("/")):
        return None
    return Address(HUB, named["place"], revision=named["revision"])


SCHEMES = tuple(f"{scheme}://" for scheme in (HUB, *BUCKETS))


def _of_scheme(scheme: str, rest: str, text: str) -> Address:
    if scheme == HUB:
        rest = rest.removeprefix("models/")
        if rest.startswith(_OTHER_KINDS):
            raise BadName("address", text, "is no model of the hub, but a dataset or a space")
    found = (_HUB if scheme == HUB else _BUCKET).fullmatch(rest)
    if found is None:
        form = "org/name[@REVISION][/FOLDER]" if scheme == HUB else "BUCKET/PREFIX"
        raise BadName("address", text, f"is not of the form {scheme}://{form}")
    path = (found["path"] or "").strip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise BadName("address", text, "leaves its place, or has an empty folder in it")
    revision = unquote(found["revision"]) if scheme == HUB and found["revision"] else None
    return Address(scheme, found["place"], path, revision)


def location(address: Address) -> Remote:
    """Open the place of an address; its library is loaded now.

    Raises MissingExtra, or OSError where the place is not there or cannot be read.
    """
    module, name = ("repository", "Repository") if address.scheme == HUB else ("bucket", "Bucket")
    kind = getattr(import_module(f"taskstore.locations.remote.{module}"), name)
    found: Remote = kind(address)
    return found
