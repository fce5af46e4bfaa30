"""Downloads that are resumed, bounded and checked."""

from __future__ import annotations

import contextlib
import hashlib
import http
import http.client
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.errors import AsrError
from asr.files import file_sha256

BLOCK = 1 << 20
TIMEOUT_S = 60
"""Seconds without a byte after which a connection is given up."""
LEAST_BYTES_PER_S = 1000
"""Mean over ``TIMEOUT_S`` below which a connection is given up."""
ANSWER_S = 120
"""Seconds in which the answer to a request must have begun, redirects included."""
ATTEMPTS = 5
"""Connections in a row that a download may take."""


class ArchiveError(AsrError):
    """A download or an archive that is missing, damaged, or not safe to unpack."""


def is_web_address(source: str) -> bool:
    """Whether ``source`` is an http(s) address rather than a local path."""
    return source.startswith(("http://", "https://"))


def fetch(url: str, target: Path, *, max_bytes: int, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``target``, with a progress bar; a file that is there and has ``sha256`` is taken.

    A download that was cut short stays as ``target`` with ``.part`` and is gone on with, here and by the next call, if
    the server still has the same file (by its ETag or date). There is never half a ``target``.
    A connection that brings next to nothing is given up as if it were cut.
    Raises ``ArchiveError`` naming the address: unreachable, larger than ``max_bytes``, cut short, wrong ``sha256``,
    redirected to anything but http and https.
    """
    part = target.with_name(target.name + ".part")
    if sha256 and os.path.isfile(target) and file_sha256(target) == sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{target}: cannot write: {error}") from error
    try:
        for attempt in range(1, ATTEMPTS + 1):
            done = part.stat().st_size if os.path.exists(part) else 0
            if _download(url, part, max_bytes, target.name):
                break
            # A server that gives nothing new twice has no more to give.
            if attempt == ATTEMPTS or part.stat().st_size <= done:
                size = part.stat().st_size
                _discard(part, unless_resumable=True)
                raise ArchiveError(f"{url}: the download stopped at {size} bytes; try again")
        found = file_sha256(part)
        if sha256 and found != sha256:
            _discard(part)
            raise ArchiveError(
                f"{url}: expected SHA-256 {sha256}, got {found}; try again or download it by other means"
            )
        part.replace(target)
        _discard(part)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        _discard(part, unless_resumable=True)
        hint = "download it by other means and pass the file with --source"
        raise ArchiveError(f"{url}: cannot download: {error}; {hint}") from error
    return target


def _download(url: str, part: Path, max_bytes: int, name: str) -> bool:
    """Append what is missing of ``url`` to ``part``; whether all of it has come."""
    mark = part.with_name(part.name + ".version")
    done = part.stat().st_size if os.path.exists(part) and os.path.exists(mark) else 0
    version = mark.read_text(encoding="latin-1") if done else ""
    try:
        answer = _ask(url, done, version)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            with error:
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(done):
                    return True
            _discard(part)
            return _download(url, part, max_bytes, name)
        raise
    if done and not _continues(answer, done, version):
        # The server sent another file, or other bytes than were asked for: request the whole file.
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            answer.close()
            answer = _ask(url, 0, "")
        done = 0
    with answer:
        if answer.status != (http.HTTPStatus.PARTIAL_CONTENT if done else http.HTTPStatus.OK):
            raise ArchiveError(f"{url}: expected the whole file (status 200), got status {answer.status}")
        span = _span(answer) if done else None
        sized = "Content-Length" in answer.headers or span is not None
        total = span[2] if span else int(answer.headers.get("Content-Length") or 0)
        if total > max_bytes:
            _discard(part)
            raise ArchiveError(f"{url}: expected at most {max_bytes} bytes, got {total}; check the address")
        bar = tqdm(total=total if sized else None, initial=done, unit="B", unit_scale=True, desc=name, disable=None)
        if not done:
            mark.unlink(missing_ok=True)
        with part.open("ab" if done else "wb") as file, bar:
            # Only now: a mark of the new file must not stand beside bytes of the old one.
            if not done and (version := _version(answer)):
                mark.write_text(version, encoding="latin-1")
            try:
                for block in _blocks(answer):
                    done += len(block)
                    if done > max_bytes:
                        _discard(part)
                        raise ArchiveError(f"{url}: expected at most {max_bytes} bytes, got more; check the address")
                    file.write(block)
                    bar.update(len(block))
            except (http.client.IncompleteRead, ConnectionError, TimeoutError):
                return False
    return not sized or done == total


def _blocks(answer: Any) -> Iterator[bytes]:
    """What comes, as it comes. Raises ``TimeoutError`` where ``TIMEOUT_S`` bring less than ``LEAST_BYTES_PER_S``."""
    since, came = time.monotonic(), 0
    while block := answer.read1(BLOCK):
        yield block
        came += len(block)
        seconds = time.monotonic() - since
        if seconds >= TIMEOUT_S:
            if came < LEAST_BYTES_PER_S * seconds:
                raise TimeoutError(f"{came} bytes in {seconds:.0f} s")
            since, came = time.monotonic(), 0


def _ask(url: str, done: int, version: str) -> Any:
    """The server's answer; the part from ``done`` on is asked for if the file still has this version."""
    if not is_web_address(url):
        raise ArchiveError(f"{url}: expected an address that begins with http:// or https://")
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if done:
        # If-Range: the rest only if it is a rest of the same file, else the whole of the new one.
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", version)
    deadline = _Deadline()
    timer = threading.Timer(ANSWER_S, deadline.hang_up)
    timer.daemon = True
    timer.start()
    try:
        return urllib.request.build_opener(_Redirects, *deadline.handlers()).open(request, timeout=TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        if deadline.over and not isinstance(error, urllib.error.HTTPError):
            raise TimeoutError(f"no answer within {ANSWER_S} s") from error
        raise
    finally:
        timer.cancel()


class _Deadline:
    """Closes connections that take too long: a socket's own timeout restarts with each byte that arrives."""

    def __init__(self) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []

    def hang_up(self) -> None:
        self.over = True
        for connected in self._sockets:
            with contextlib.suppress(OSError):
                # Not the method of an SSLSocket, which takes away what a handshake in another thread needs.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def watch(self, connected: socket.socket) -> None:
        self._sockets.append(connected)
        if self.over:
            self.hang_up()

    def handlers(self) -> tuple[urllib.request.BaseHandler, ...]:
        """Handlers of http and https whose connections are watched."""
        watch = self.watch

        class Plain(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                watch(self.sock)

        class PlainHandler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(Plain, request)

        class Context(ssl.SSLContext):
            def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
                secure = super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": False})
                watch(secure)
                secure.do_handshake()
                return secure

        context = Context(ssl.PROTOCOL_TLS_CLIENT)  # asks for a certificate of the host's name
        context.load_default_certs()
        return PlainHandler(), urllib.request.HTTPSHandler(context=context)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, never from https to http; ignores the body of a redirect."""

    def redirect_request(
        self, request: Any, answer: Any, code: int, message: str, headers: Any, address: str
    ) -> urllib.request.Request | None:
        answer.close()
        allowed = ("https",) if request.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(address).scheme not in allowed:
            raise ArchiveError(
                f"{request.full_url}: redirects to {address}, expected {' or '.join(allowed)}; download it by other "
                "means and pass the file with --source"
            )
        return super().redirect_request(request, answer, code, message, headers, address)


def _version(answer: Any) -> str:
    """The server's identifier of this version of the file; empty where it gives none that covers all bytes."""
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    return "" if version.startswith("W/") else str(version)


def _span(answer: Any) -> tuple[int, int, int] | None:
    """First and last byte of a part, and the length of the whole."""
    span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.headers.get("Content-Range", ""), re.ASCII)
    return (int(span[1]), int(span[2]), int(span[3])) if span else None


def _continues(answer: Any, done: int, version: str) -> bool:
    """Whether the answer is what follows the first ``done`` bytes of this version of the file."""
    span = _span(answer)
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT or span is None:
        return False
    first, last, total = span
    length = answer.headers.get("Content-Length", str(last - first + 1))
    same = version in (answer.headers.get("ETag", version), answer.headers.get("Last-Modified"))
    return same and first == done and first <= last < total and length == str(last - first + 1)


def _discard(part: Path, *, unless_resumable: bool = False) -> None:
    """Remove a part of a download, unless something of it is there and the server named its version."""
    mark = part.with_name(part.name + ".version")
    if unless_resumable and os.path.exists(mark) and os.path.exists(part) and part.stat().st_size:
        return
    part.unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def digest(folder: Path, files: Iterable[str]) -> str:
    """SHA-256 over the named files' relative paths and contents, in sorted order.

    A checksum of what a corpus holds, whichever way it was packed. Raises ``ArchiveError`` for a missing file.
    """
    total = hashlib.sha256()
    for name in sorted(files):
        try:
            content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ArchiveError(f"{folder / name}: cannot read: {error}") from error
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()
