"""The page at /ui: files of the folder `page`, which hold nothing of the store.

They are open, like /ready. The page asks for the API key, and fetches all that it shows from the
routes below /v1 with it. It may load nothing but its own files: no inline code, no other host.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from taskstore_serving.api.answers import Refusal

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def attach(app: FastAPI) -> None:
    """Add the page's routes."""
    for path in ("/ui", "/ui/{name}"):
        app.add_api_route(path, page, methods=["GET"], include_in_schema=False)
    logging.getLogger("uvicorn.access").addFilter(_is_no_look)


async def page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in _parts():
        refusal = Refusal(404, f"There is no {name[:100]!r} in /ui")
        return JSONResponse(refusal.body(), refusal.status)
    return Response(_parts()[name], headers=HEADERS, media_type=_TYPES[name.rpartition(".")[2]])


@cache
def _parts() -> dict[str, bytes]:
    folder = files("taskstore_serving") / "page"
    return {part.name: part.read_bytes() for part in folder.iterdir()}


def _is_no_look(record: logging.LogRecord) -> bool:
    """Whether a line of the access log is none of those that a page makes every second."""
    return "/v1/taskstore/activity" not in record.getMessage()
