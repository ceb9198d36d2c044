"""Where the clients of buckets find credentials and endpoints: the environment, and profiles.

The library reads the variables of AWS, Google and Azure itself, and asks the machine where it runs
in a cloud. Here stand the profiles of AWS's own files, and when plain HTTP is allowed.
"""

from __future__ import annotations

import configparser
import ipaddress
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskstore.errors import RemoteError
from taskstore.version import __version__

ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)


def client_options(scheme: str) -> Any:
    """Return what the client is told; raises RemoteError for plain HTTP to another machine."""
    options: dict[str, Any] = {
        "user_agent": f"taskstore/{__version__}",
        "connect_timeout": timedelta(seconds=10),
        "timeout": timedelta(minutes=10),  # of one request, with its body
    }
    endpoint = _endpoint(scheme)
    if endpoint.lower().startswith("http://"):
        host, said = urlsplit(endpoint).hostname or "", ALLOW_HTTP[scheme]
        if not _is_loopback(host) and os.environ.get(said, "").lower() not in ("1", "true"):
            raise RemoteError(
                f"{scheme}://: plain http to {host} would show what is sent to everybody on the "
                f"way; use https, or say that it is meant: {said}=true"
            )
        options["allow_http"] = True
    return options


def options(scheme: str) -> Mapping[str, Any]:
    """Return what a profile of AWS's files says, where the environment has no credentials."""
    if scheme != "s3":
        return {}
    given = dict(_profile())
    own = os.environ
    if "AWS_ACCESS_KEY_ID" in own and "AWS_PROFILE" not in own:
        given = {k: v for k, v in given.items() if k in ("region", "endpoint")}
    if "AWS_REGION" in own or "AWS_DEFAULT_REGION" in own:
        given.pop("region", None)
    if any(name in own for name in ENDPOINTS["s3"]):
        given.pop("endpoint", None)
    return given


def _endpoint(scheme: str) -> str:
    named = (os.environ[name] for name in ENDPOINTS[scheme] if os.environ.get(name))
    return next(named, "") or str(options(scheme).get("endpoint", ""))


def _profile() -> Mapping[str, str]:
    """Read the keys of the profile that AWS_PROFILE names; the file of credentials wins."""
    name, found = os.environ.get("AWS_PROFILE") or "default", dict[str, str]()
    for variable, usual in _FILES:
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(os.environ.get(variable) or usual).expanduser(), encoding="utf-8")
        except (configparser.Error, OSError, ValueError):
            raise RemoteError(
                f"the file of {variable} ({usual}) cannot be read as AWS writes it; mend it, or "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        for section in (name, f"profile {name}"):
            if parser.has_section(section):
                found |= {_KEYS[k]: v for k, v in parser.items(section) if k in _KEYS}
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
