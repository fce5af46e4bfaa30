"""The page at `/`: its files, which lie in `page/`, and what else it asks of the server (`page_data.py`).

Nothing of it is built or comes from elsewhere. The Content-Security-Policy allows scripts, styles and connections of
this server only, and with ``require-trusted-types-for`` no script may turn a text into HTML.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from asr.server.page_data import PageData, page_data_routes
from asr.server.services import Services
from asr.server.teach_requests import teaching_routes

PAGE_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Media types of the page's files by suffix. Others are not served."""
POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Browsers ask each time whether their copy is still right, so that a new version is used at once.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page as it is served."""

    content: bytes
    media_type: str
    etag: str


def page_files(folder: str = PAGE_FOLDER) -> dict[str, PageFile]:
    """The files of the page by name."""
    files = {}
    for name in sorted(os.listdir(folder)):
        media_type = PAGE_TYPES.get(os.path.splitext(name)[1])
        if media_type is not None:
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            files[name] = PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return files


def page_routes(services: Services) -> list[BaseRoute]:
    """The routes of the page: `/`, its files below `/page/`, and its data below `/page-data/`."""
    files, data = page_files(), PageData(services)

    async def page(request: Request) -> Response:
        file = files.get(request.path_params.get("name", "index.html"))
        if file is None:
            return Response("not found\n", 404, PAGE_HEADERS, "text/plain")
        headers = PAGE_HEADERS | {"etag": file.etag}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if file.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers | {"content-type": file.media_type})

    return [Route("/", page), Route("/page/{name}", page), *page_data_routes(data), *teaching_routes(services, data)]
