"""Errors as an OpenAI client expects them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from taskstore.errors import TaskstoreError

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    503: "ServiceUnavailableError",
}

WAIT = 60.0  # seconds that requests of a task have to end before it goes


class Refusal(TaskstoreError):
    """A request that is refused with a status below 500, or 503."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": str(self),
                "type": _TYPES.get(self.status, "BadRequestError"),
                "param": self.param,
                "code": self.status,
            }
        }

    def raw(self) -> bytes:
        return json.dumps(self.body()).encode()


async def http_error(_: Request, error: HTTPException) -> JSONResponse:
    """Answer for a route or method that is not there, or a body that cannot be parsed."""
    refusal = Refusal(error.status_code, str(error.detail))
    return JSONResponse(refusal.body(), error.status_code, error.headers)


def unknown_model(name: str, known: Iterable[str]) -> Refusal:
    """Make a 404 that lists the known names, the nearest first."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(near + [other for other in names if other not in near])
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    return Refusal(404, f"The model `{shown}` does not exist; there are {listed}", "model")


@contextmanager
def present(store: Callable[[], Any], task: str) -> Iterator[None]:
    """Answer 404 where the store lacks a task, before the block or in it; 409 where it changed."""

    def check() -> None:
        try:
            store().check_task(task)
        except TaskstoreError as error:
            raise Refusal(404, str(error)) from None

    check()
    try:
        yield
    except Exception as error:
        check()  # where it went meanwhile, that is the reason
        if isinstance(error, KeyError | FileNotFoundError):
            why = f"Task `{task}` changed in the store meanwhile; send the request again"
            raise Refusal(409, why) from error
        raise
