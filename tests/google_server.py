"""A server that speaks as much of Google Cloud Storage's JSON API as our inputs need, and fails as it is told.

Objects have generations; a request for a generation that was replaced gets 404. Written after
https://cloud.google.com/storage/docs/json_api/v1 (objects: get, list, insert, delete; alt=media with Range).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from object_server import serving_http


@dataclass
class Bucket:
    """Objects by name: content and generation. ``fault``: a status for a method and a name, or 0."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    fault: Callable[[str, str], int] = lambda method, name: 0
    page: int = 1000
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    generation: int = field(default_factory=time.time_ns)
    """Of the last object; no other bucket has had it, since versions are remembered."""

    def put(self, name: str, data: bytes) -> dict[str, str]:
        """Write an object; what the API says of it."""
        self.generation += 1
        self.files[name] = data, self.generation
        return self.about(name)

    def about(self, name: str) -> dict[str, str]:
        """An object's resource."""
        data, generation = self.files[name]
        return {"kind": "storage#object", "name": name, "bucket": "speech", "size": str(len(data)),
                "generation": str(generation), "updated": "2026-01-01T00:00:00Z"}  # fmt: skip


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            self.serve("GET")

        def do_POST(self) -> None:
            self.serve("POST")

        def do_DELETE(self) -> None:
            self.serve("DELETE")

        def serve(self, method: str) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = re.fullmatch(r"/(?:upload/|download/)?storage/v1/b/speech/o(?:/(.+))?", parts.path)
            name = unquote(found[1] or "") if found else ""
            bucket.requests.append((method, name))
            if status := bucket.fault(method, name):
                return self.fail(status)
            if found is None:
                return self.fail(404)
            if method == "POST":
                return self.reply(bucket.put(*self.uploaded(body)))
            if not name:
                return self.reply(self.listed(query))
            if name not in bucket.files or query.get("generation") not in (None, str(bucket.files[name][1])):
                return self.fail(404)
            if method == "DELETE":
                del bucket.files[name]
                return self.send(204, b"", {})
            if query.get("alt") != "media":
                return self.reply(bucket.about(name))
            self.media(bucket.files[name][0])

        def uploaded(self, body: bytes) -> tuple[str, bytes]:
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            _, head, content, _ = body.split(b"--" + boundary[1].encode(), 3)
            tree = json.loads(re.split(b"\r?\n\r?\n", head, maxsplit=1)[1])
            data = re.split(b"\r?\n\r?\n", content, maxsplit=1)[1]
            return tree["name"], data.removesuffix(b"\r\n" if b"\r\n" in head else b"\n")

        def listed(self, query: dict[str, str]) -> dict[str, Any]:
            prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "pageToken"))
            names = sorted(name for name in bucket.files if name.startswith(prefix))
            rest = {name: name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "") for name in names}
            folders = sorted({prefix + head + delimiter for head, mark, _ in rest.values() if mark})
            names = [name for name in names if not rest[name][1] and name > after]
            most = min(bucket.page, int(query.get("maxResults", bucket.page)))
            items = [bucket.about(name) for name in names[:most]]
            tree: dict[str, Any] = {"kind": "storage#objects", "items": items, "prefixes": folders}
            return tree | ({"nextPageToken": names[most - 1]} if names[most:] else {})

        def media(self, data: bytes) -> None:
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span is None:
                return self.send(200, data, {})
            start, end = int(span[1]), min(int(span[2] or len(data)) + 1, len(data))
            if start >= len(data):
                return self.fail(416)
            self.send(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

        def fail(self, status: int) -> None:
            self.send(status, json.dumps({"error": {"code": status, "message": "injected"}}).encode(), {})

        def reply(self, tree: dict[str, Any]) -> None:
            self.send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serving_google(bucket: Bucket) -> Iterator[Bucket]:
    """Serve the bucket ``speech`` during the block."""
    with serving_http(_handler(bucket)) as bucket.url:
        yield bucket
