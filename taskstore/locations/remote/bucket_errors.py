"""Say what an answer of an object store means, and what to do, without a word that may be secret.

The library's own texts hold addresses that may be signed, so only the status and the code of an
answer are taken from them.
"""

from __future__ import annotations

import errno
import os
import re

from taskstore.errors import ChangedMeanwhile, RemoteError, TaskstoreError
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.windows import Temporary

_STATUS = re.compile(r"status code: (\d{3})|\bstatus: (\d{3})\b")
_CODE = re.compile(r"<Code>\s*(\w{1,60})\s*</Code>|\"reason\":\s*\"(\w{1,60})\"")
_REGION = re.compile(r"<Region>([\w-]{1,40})</Region>")
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
}
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")
_REGIONS = (
    "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException",
    "TemporaryRedirect",
)  # fmt: skip
_MACHINE = ("169.254.169.254", "metadata.google.internal", "/metadata/identity")
_BUSY = (408, 429, 500, 502, 503, 504)


def meaning(error: Exception, address: Address, label: str) -> OSError | TaskstoreError:
    """Return what to raise for an error of the library about `label`, a file or the whole place."""
    text, kind, bucket = str(error), type(error).__name__, f"{address.scheme}://{address.place}"
    status, code = int(_first(_STATUS, text) or 0), _first(_CODE, text)
    shown = f" ({' '.join(filter(None, (str(status or ''), code)))})" if status or code else ""
    keys = _VARIABLES.get(address.scheme, "credentials")
    if code in _NO_BUCKET:
        return RemoteError(
            f"{bucket}: there is no such bucket{shown}; make it, or check the name and the endpoint"
        )
    if kind in ("AlreadyExistsError", "PreconditionError", "NotModifiedError"):
        return ChangedMeanwhile(f"{label} is not what was read")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), label)
    if code in _EXPIRED:
        return RemoteError(
            f"{label}: the credentials have expired{shown}; get new ones and run "
            "the command again: what is there already is not sent twice"
        )
    if code in _REGIONS or "redirect without LOCATION" in text or status in (301, 307):
        region = _first(_REGION, text)
        way_out = f"AWS_REGION={region}" if region else "AWS_REGION to the bucket's"
        return RemoteError(f"{bucket} lies in another region{shown}; set {way_out}")
    if any(host in text for host in _MACHINE) or "Account must be specified" in text:
        return RemoteError(f"{label}: there are no credentials; set {keys}")
    if code in _UNKNOWN_KEY or kind == "UnauthenticatedError" or status == 401:
        return RemoteError(f"{label}: the credentials are not accepted{shown}; check {keys}")
    if code == "RequestTimeTooSkewed":
        return RemoteError(f"{label}: the clock of this machine is wrong{shown}; set it")
    if kind == "PermissionDeniedError" or status == 403:
        return RemoteError(
            f"{label}: these credentials may not do that{shown}; ask for the right "
            f"to read, write and list {bucket}, or use others: {keys}"
        )
    if status == 416:
        return ChangedMeanwhile(f"{label} is shorter than it was")
    if status in _BUSY:
        return Temporary(f"its server answers{shown}")
    if status:
        return RemoteError(f"{label}: the server refuses{shown}")
    if kind in ("NotSupportedError", "InvalidPathError", "UnknownConfigurationKeyError"):
        return RemoteError(f"{label}: this store cannot do that ({kind})")
    if isinstance(error, ValueError):
        return RemoteError(
            f"{bucket}: the settings of the client are not usable; check the "
            "endpoint and the region in the environment"
        )
    return Temporary(f"{address.scheme}://{address.place} cannot be reached")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return next(filter(None, found.groups()), "") if found else ""
