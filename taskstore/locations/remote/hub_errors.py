"""What the answers of a hub mean to a user, and what helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from huggingface_hub import constants, errors, get_token

from taskstore.errors import ChangedMeanwhile, RemoteError
from taskstore.locations.remote.addresses import Address
from taskstore.locations.remote.windows import Temporary

_PASSING = (408, 425, 429, 500, 502, 503, 504)


def unreachable(error: BaseException) -> bool:
    """Tell whether no hub answered, so that what is in the cache may stand for it."""
    offline = isinstance(error, errors.OfflineModeIsEnabled)
    return offline or (
        isinstance(error, errors.HTTPError) and not isinstance(error, errors.HfHubHTTPError)
    )


@contextmanager
def explained(address: Address, what: str = "") -> Iterator[None]:
    """Raise for the hub's errors ours: Temporary for what may pass, else RemoteError.

    `what` is the file that is asked for; one that is not there is a FileNotFoundError.
    """
    label = f"{address}/{what}" if what else str(address)
    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise RemoteError(
            f"{label} is not in the hub's cache, and the hub cannot be reached"
        ) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), label) from None
    except errors.HfHubHTTPError as error:
        raise _meaning(error, address, label) from None
    except RuntimeError as error:  # of a thread that sends a file
        if not isinstance(error.__cause__, errors.HfHubHTTPError):
            raise
        raise _meaning(error.__cause__, address, label) from None
    except errors.OfflineModeIsEnabled:
        raise RemoteError(
            f"{label} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or fill the "
            f"cache first: hf download {address.place}"
        ) from None
    except errors.HTTPError as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Temporary(
            f"{label}: the hub at {constants.ENDPOINT} does not answer: {why}"
        ) from None
    except errors.HFValidationError:
        raise RemoteError(f"{label}: {address.place!r} is no id of the hub: org/name") from None


@contextmanager
def settled(address: Address) -> Iterator[None]:
    """Raise a RemoteError for what may pass: nobody will ask again."""
    try:
        yield
    except Temporary as error:
        raise RemoteError(f"{error.strerror}; try again later") from None


def _meaning(error: errors.HfHubHTTPError, address: Address, label: str) -> Exception:
    status = error.response.status_code
    page = f"{constants.ENDPOINT}/{address.place}"
    if isinstance(error, errors.GatedRepoError):
        return RemoteError(
            f"{label} is gated: ask for access at {page}, then log in (hf auth login, or HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RemoteError(
            f"{label}: the repository has no revision {address.revision or 'main'!r} (any more); "
            f"its branches and tags are listed at {page}/tree/main"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        token = (
            "your token may not see it"
            if get_token()
            else "if it is private, log in (hf auth login) or set HF_TOKEN"
        )
        return RemoteError(
            f"{label}: there is no such repository at {constants.ENDPOINT}; {token}; "
            f"a folder on this machine is named ./{address.place}"
        )
    if status == 401:
        return RemoteError(
            f"{label}: the hub does not take the token (it is wrong, or has expired); make another "
            "and log in (hf auth login, or HF_TOKEN)"
        )
    if status == 403:
        return RemoteError(f"{label}: the token has no right to do this; use one that has")
    if status == 412:
        return ChangedMeanwhile(
            f"{address} was changed by another writer meanwhile; nothing was sent, do it again"
        )
    if status == 416:
        return ChangedMeanwhile(f"{label} is shorter than the hub said; it is not what it was")
    if status in _PASSING:
        return Temporary(f"{label}: the hub answers {status}", wait_of(error.response.headers))
    said = error.server_message or f"status {status}"
    return RemoteError(f"{label}: the hub refuses: {' '.join(said.split())[:300]}")


def wait_of(headers: Mapping[str, str]) -> float:
    """How many seconds a server asks to wait: Retry-After, or the hub's rate limits ("r=0;t=9")."""
    for name, key in (("retry-after", ""), ("ratelimit", "t=")):
        for part in headers.get(name, "").split(";"):
            part = part.strip().removeprefix(key)
            if part.isdigit() and (not key or "r=0" in headers[name].replace(" ", "")):
                return float(part)
    return 0.0
