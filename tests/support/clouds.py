"""The object stores of tests by their schemes: SeaweedFS, azurite, one of Google's interface."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from taskstore.locations.remote import bucket as buckets
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.bucket import Bucket
from tests.support import azurite, google_storage, seaweed
from tests.support.azurite import Azurite
from tests.support.google_storage import GoogleStorage
from tests.support.seaweed import Seaweed

Server = Seaweed | Azurite | GoogleStorage
PLACES = {"s3": seaweed.BUCKET, "az": azurite.CONTAINER, "gs": google_storage.BUCKET}
VARIABLES = {"s3": "AWS_", "az": "AZURE_", "gs": "GOOGLE_"}
# as parameters of tests; one process of a run has the server of S3
EACH = [pytest.param("s3", marks=pytest.mark.xdist_group("s3")), "az", "gs"]


def bucket(scheme: str, prefix: str) -> Bucket:
    return Bucket(Address(scheme, PLACES[scheme], prefix))


def point_at(scheme: str, environment: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """Let clients of a kind find a server, and no other credentials."""
    for name in [name for name in os.environ if name.startswith(VARIABLES[scheme])]:
        patch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE") if scheme == "s3" else ():
        patch.setenv(name, os.devnull)
    for name, value in environment.items():
        patch.setenv(name, value)


def retry_once(patch: pytest.MonkeyPatch) -> None:
    """Let a client make a request twice, also on a machine that stands still in between."""
    patch.setitem(buckets._RETRY, "max_retries", 1)
    patch.setitem(buckets._RETRY, "retry_timeout", timedelta(hours=1))
