"""A server of objects over HTTP that fails as it is told: ranges, ETags, folders as pages of links, S3's listings.

It speaks as much of S3 as reading needs (GetObject, HeadObject, ListObjectsV2), without looking at signatures. Tests
of S3 itself use moto. ``python tests/object_server.py FOLDER --latency-s 0.05 --errors 0.02`` serves a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

CUT = -1
"""Instead of a status: half of the answer, and an end of the connection."""


@dataclass(frozen=True)
class Request:
    """A request as a test sees it; ``number`` counts those for this path, from 1."""

    method: str
    path: str
    span: str
    headers: dict[str, str]
    number: int


@dataclass
class Objects:
    """What is served: ``files`` by path without the slash in front; ``fault`` gives a status to fail with, or 0."""

    files: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[[Request], int] = lambda request: 0
    latency_s: float = 0.0
    ranges: bool = True
    tags: bool = True
    page: int = 1000
    """Names in a page of an S3 listing."""
    user: str = ""
    """``user:password`` that is asked for; empty: anybody may read."""
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def count(self, path: str) -> int:
        """Requests for a path until now."""
        return sum(request.path == path for request in self.requests)


def _handler(objects: Objects) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()
    counts: dict[str, int] = {}
    tags: dict[bytes, str] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def log_message(self, *_: Any) -> None:
            """Nothing: tests look at ``Objects.requests``."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path).lstrip("/")
            with lock:
                counts[path] = counts.get(path, 0) + 1
                request = Request(
                    self.command, path, self.headers.get("Range", ""), dict(self.headers.items()), counts[path]
                )
                objects.requests.append(request)
            if objects.latency_s:
                time.sleep(objects.latency_s)
            fault = objects.fault(request)
            if fault > 0:
                return self.answer(fault, b"<Error><Code>Injected</Code></Error>", {"Content-Type": "application/xml"})
            if objects.user and not self._allowed():
                return self.answer(401, b"", {})
            query = parse_qs(parts.query)
            if "list-type" in query:
                return self.answer(200, self._s3_page(path, query), {"Content-Type": "application/xml"})
            if path in objects.files:
                return self._file(objects.files[path], cut=fault == CUT)
            names = {name[len(path) :].partition("/") for name in objects.files if name.startswith(path)}
            if names and (not path or path.endswith("/")):
                links = sorted({quote(name + slash) for name, slash, _ in names})
                page = "".join(f'<a href="{link}">{link}</a>\n' for link in links)
                return self.answer(200, page.encode(), {"Content-Type": "text/html"})
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})

        def _allowed(self) -> bool:
            import base64

            expected = "Basic " + base64.b64encode(objects.user.encode()).decode()
            return self.headers.get("Authorization") == expected

        def _file(self, data: bytes, *, cut: bool) -> None:
            tag = tags.get(data) or tags.setdefault(data, f'"{hashlib.md5(data).hexdigest()}"')
            headers = {"ETag": tag} if objects.tags else {}
            if objects.ranges:
                headers["Accept-Ranges"] = "bytes"
            if self.headers.get("If-Match") not in (None, tag):
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", {})
            span = self.headers.get("Range", "")
            if not span or not objects.ranges:
                return self.answer(200, data, headers, cut=cut)
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self.answer(206, data[start : end + 1], headers, cut=cut)

        def _s3_page(self, bucket: str, query: dict[str, list[str]]) -> bytes:
            bucket = bucket.strip("/")
            prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
            keys = sorted(name[len(bucket) + 1 :] for name in objects.files if name.startswith(f"{bucket}/{prefix}"))
            keys = [key for key in keys if key > after]
            most = min(objects.page, int(query.get("max-keys", ["1000"])[0]))
            found = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(objects.files[f'{bucket}/{key}'])}</Size></Contents>"
                for key in keys[:most]
            )
            more = f"<NextContinuationToken>{escape(keys[most - 1])}</NextContinuationToken>" if keys[most:] else ""
            cut = "true" if more else "false"
            return (
                f"<ListBucketResult><Name>{bucket}</Name><KeyCount>{len(keys[:most])}</KeyCount>"
                f"<IsTruncated>{cut}</IsTruncated>{more}{found}</ListBucketResult>"
            ).encode()

        def answer(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
            """Send a status, headers and a body, or half of the body."""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no error of the server."""


_used: set[int] = set()


def _new_server(handler: type[BaseHTTPRequestHandler], port: int) -> _Server:
    """A server at ``port``, or at one that no server of this process has had: addresses may still be remembered."""
    others = []
    while True:
        server = _Server(("127.0.0.1", port), handler)
        if port or server.server_port not in _used:
            break
        others.append(server)
    for other in others:
        other.server_close()
    _used.add(server.server_port)
    return server


@contextmanager
def serving_http(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Answer requests during the block; gives the URL."""
    server = _new_server(handler, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(objects: Objects, port: int = 0) -> Iterator[Objects]:
    """Serve ``objects``, whose ``url`` is set, during the block."""
    with serving_http(_handler(objects), port) as objects.url:
        yield objects


def random_errors(share: float, seed: int = 0) -> Callable[[Request], int]:
    """A fault for this share of the requests: 500, 503, or a cut connection; never for one request four times in a row,
    so that no test fails by chance."""
    rng, lock = random.Random(seed), threading.Lock()
    failed: dict[tuple[str, str], int] = {}

    def fault(request: Request) -> int:
        key = request.path, request.span
        with lock:
            status = rng.choice((500, 503, CUT)) if rng.random() < share and failed.get(key, 0) < 3 else 0
            failed[key] = failed.get(key, 0) + 1 if status else 0
            return status

    return fault


def main() -> None:
    """Serve a folder until the process is ended; the address is the first line of the output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--errors", type=float, default=0.0)
    args = parser.parse_args()
    paths = [Path(parent, name) for parent, _, names in os.walk(args.folder) for name in names]
    files = {path.relative_to(args.folder).as_posix(): path.read_bytes() for path in paths}
    objects = Objects(files, random_errors(args.errors), args.latency_s)
    with serving(objects):
        print(objects.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
