"""Archives and downloads that are not what they should be: refused, and nothing is left behind."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import random
import socketserver
import tarfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asr.cloud.addresses import is_url
from asr.corpora import download
from asr.corpora.download import ArchiveError, digest, fetch
from asr.corpora.unpack import unpack_archive, unpack_into

LIMITS = {"max_bytes": 1 << 20, "max_members": 100}
GOOD = {"an4/a.txt": b"OH ONE\n" * 100, "an4/wav/b.sph": bytes(range(256)) * 40, "an4/empty": b""}


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def good_bytes(mode: str = "w:gz") -> bytes:
    return tar_bytes(member("an4", type=tarfile.DIRTYPE), *(member(*item) for item in GOOD.items()), mode=mode)


@pytest.fixture
def place(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes an archive into a folder of its own, beside which nothing else may turn up."""

    def write(content: bytes) -> Path:
        (tmp_path / "at" / "out").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "at" / "a.tar"
        path.write_bytes(content)
        return path

    return write


def refused(path: Path, match: str, **limits: int) -> None:
    """``unpack`` raises, names the archive, and leaves the disk as it was."""
    before = sorted(path.parent.parent.rglob("*"))
    with pytest.raises(ArchiveError, match=match) as error:
        unpack_archive(path, path.parent / "out" / "raw", **(LIMITS | limits))
    assert str(path) in str(error.value)
    assert sorted(path.parent.parent.rglob("*")) == before


# ------------------------------------------------------------------------------------------------ unpacking


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_unpack(place: Callable[[bytes], Path], mode: str) -> None:
    path = place(good_bytes(mode))
    target = unpack_archive(path, path.parent / "new" / "raw", **LIMITS)
    found = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == GOOD
    assert [p.name for p in target.parent.iterdir()] == ["raw"]


def test_unpack_without_folder_members(place: Callable[[bytes], Path]) -> None:
    path = place(tar_bytes(member("./x/./y/z.txt", b"deep")))
    assert (unpack_archive(path, path.parent / "out" / "raw", **LIMITS) / "x" / "y" / "z.txt").read_bytes() == b"deep"


def test_files_are_readable_whatever_the_archive_says(place: Callable[[bytes], Path]) -> None:
    path = place(tar_bytes(member("a", b"x", mode=0o7000), member("d", type=tarfile.DIRTYPE, mode=0)))
    target = unpack_archive(path, path.parent / "out" / "raw", **LIMITS)
    assert (target / "a").stat().st_mode & 0o7777 == 0o600
    assert (target / "d").stat().st_mode & 0o700 == 0o700


def test_a_target_that_exists_is_kept(place: Callable[[bytes], Path]) -> None:
    path = place(good_bytes())
    target = path.parent / "out" / "raw"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ArchiveError, match="raw: exists already"):
        unpack_archive(path, target, **LIMITS)
    assert [p.name for p in target.parent.rglob("*")] == ["raw", "mine.txt"]


def test_what_a_killed_run_left_is_replaced(place: Callable[[bytes], Path]) -> None:
    path = place(good_bytes())
    (path.parent / "out" / ".raw.unpacking" / "an4").mkdir(parents=True)
    (path.parent / "out" / ".raw.unpacking" / "an4" / "stale").touch()
    target = unpack_archive(path, path.parent / "out" / "raw", **LIMITS)
    assert not (target / "an4" / "stale").exists()
    assert [p.name for p in target.parent.iterdir()] == ["raw"]


LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE]
DEVICES = [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "an4/..", "..", "/etc/evil", "//evil", "a\\..\\evil"])
def test_members_outside_the_target(place: Callable[[bytes], Path], name: str) -> None:
    refused(place(tar_bytes(member("an4/a", b"fine"), member(name, b"evil"))), "outside the target")


@pytest.mark.parametrize("kind", [*LINKS, *DEVICES])
@pytest.mark.parametrize("linkname", ["../../evil", "/etc/passwd", "an4/a"])
def test_links_and_devices(place: Callable[[bytes], Path], kind: bytes, linkname: str) -> None:
    odd = member("an4/odd", type=kind, linkname=linkname)
    refused(place(tar_bytes(member("an4/a", b"fine"), odd, member("an4/odd/b", b"x"))), "'an4/odd' is a link or a dev")


@pytest.mark.parametrize("second", ["an4/a", "./an4/a", "an4//a", "an4/./a", "AN4/A"])
def test_the_same_file_twice(place: Callable[[bytes], Path], second: str) -> None:
    refused(place(tar_bytes(member("an4/a", b"1"), member(second, b"2"))), "is there twice")


def test_a_file_that_is_also_a_folder(place: Callable[[bytes], Path]) -> None:
    refused(place(tar_bytes(member("a", b"1"), member("a/b", b"2"))), "cannot unpack")
    refused(place(tar_bytes(member("a/b", b"1"), member("a", b"2"))), "cannot unpack")


def test_too_many_members(place: Callable[[bytes], Path]) -> None:
    content = tar_bytes(*(member(f"{i}", type=tarfile.DIRTYPE) for i in range(101)))
    refused(place(content), "more than 100 members")
    unpack_archive(place(content), place(content).parent / "out" / "raw", **(LIMITS | {"max_members": 101}))


def test_a_bomb_is_refused_before_anything_is_written(
    place: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object, **__: object) -> None:
        raise AssertionError("something was written")

    content = tar_bytes(member("a", bytes(600_000)), member("b", bytes(600_000)), mode="w:gz")
    assert len(content) < 5000
    path = place(content)
    monkeypatch.setattr(tarfile.TarFile, "extract", write)
    monkeypatch.setattr(Path, "mkdir", write)
    refused(path, r"unpacks to more than 1048576 bytes \(at b\)")


def test_a_size_is_believed_before_its_bytes_come(place: Callable[[bytes], Path]) -> None:
    """The header alone condemns it: a terabyte is not decompressed to be counted."""
    info = tarfile.TarInfo("huge")
    info.size = 1 << 40
    refused(place(gzip.compress(info.tobuf())), "more than 1048576 bytes")


def test_a_bomb_behind_the_end(place: Callable[[bytes], Path]) -> None:
    refused(place(gzip.compress(good_bytes("w") + bytes(1 << 21))), "behind the last member")


def test_a_negative_size(place: Callable[[bytes], Path]) -> None:
    """It would set the count of bytes back, and older versions of tarfile read the same header for ever."""
    for size in (-512, -(1 << 40)):
        info = tarfile.TarInfo("a")
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"\xff" + size.to_bytes(11, "big", signed=True)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = tar_bytes(member("b", b"fine"))[:1024] + bytes(header) + bytes(1024)
        refused(place(content), "size of -|cannot unpack")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_says_it_is_huge_is_not_read(place: Callable[[bytes], Path], kind: bytes, packed: bool) -> None:
    """tarfile reads such a header whole: of 4 GB it makes 4 GB of memory."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 1 << 32
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 22)
    refused(place(gzip.compress(content) if packed else content), f"a header of {1 << 32} bytes, expected at most")


def test_many_shared_headers_do_not_add_up(place: Callable[[bytes], Path]) -> None:
    blocks = []
    for number in range(20):
        record = f" k{number}={'v' * 20000}\n"
        record = f"{len(record) + 5}{record}"
        info = tarfile.TarInfo("g")
        info.type, info.size = tarfile.XGLTYPE, len(record)
        blocks.append(info.tobuf(tarfile.USTAR_FORMAT) + record.encode() + bytes(-len(record) % 512))
        blocks.append(tar_bytes(member(f"a{number}"))[:512])
    refused(place(gzip.compress(b"".join(blocks) + bytes(1024))), "a header of 20")


def test_long_names_and_properties_are_read(place: Callable[[bytes], Path]) -> None:
    name = "/".join(["folder" * 20] * 3) + "/a.txt"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "c" * 500}) as tar:
            info, content = member(name, b"x")
            tar.addfile(info, io.BytesIO(content))
        path = place(buffer.getvalue())
        unpack_archive(path, path.parent / f"out{form}", **LIMITS)
        assert (path.parent / f"out{form}" / name).read_bytes() == b"x"


def test_sparse_files_are_refused(place: Callable[[bytes], Path]) -> None:
    """The table of one may go on for as long as the archive does."""
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_SPARSE
    refused(place(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), "member 'a' is a sparse file")


@pytest.mark.parametrize(
    "header",
    [
        {"mtime": "1e300"},
        {"mtime": "inf"},
        {"mtime": "nan"},
        {"size": "-512"},
        {"path": "../evil"},
        {"path": "a\0b"},
        {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "a,b", "GNU.sparse.size": "1"},
        {"GNU.sparse.size": "many", "GNU.sparse.map": "0,1"},
        {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1", "GNU.sparse.name": "a"},
    ],
)
def test_extended_headers_that_make_no_sense(place: Callable[[bytes], Path], header: dict[str, str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info, content = member("a", b"x", pax_headers=header)
        tar.addfile(info, io.BytesIO(content))
    refused(place(buffer.getvalue()), "a.tar: ")


@pytest.mark.parametrize("content", [b"", b"no archive", bytes(10240), b"\x1f\x8b" + bytes(100), b"<html>" * 500])
def test_what_is_no_archive(place: Callable[[bytes], Path], content: bytes) -> None:
    path = place(content)
    if content == bytes(10240):  # an empty archive, as tar writes it
        assert list(unpack_archive(path, path.parent / "out" / "raw", **LIMITS).iterdir()) == []
    else:
        refused(path, "cannot unpack")


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"gone\.tar: cannot unpack"):
        unpack_archive(tmp_path / "gone.tar", tmp_path / "raw", **LIMITS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_truncated_archive(place: Callable[[bytes], Path], mode: str) -> None:
    content = good_bytes(mode)
    for cut in {*range(1, len(content), 1 + len(content) // 40), len(content) - 1, len(content) - 9}:
        refused(place(content[:cut]), "cannot unpack")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_damaged_archive(place: Callable[[bytes], Path], mode: str) -> None:
    """Either refused, or the damage was of no consequence (the time in a gzip header, say)."""
    content = good_bytes(mode)
    rng = random.Random(1)
    harmless = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path = place(bytes(damaged))
        target = path.parent / "out" / "raw"
        try:
            unpack_archive(path, target, **LIMITS)
        except ArchiveError:
            assert list(target.parent.iterdir()) == []
        else:
            harmless += 1
            found = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
            assert found == GOOD
            for p in sorted(target.rglob("*"), reverse=True):
                p.rmdir() if p.is_dir() else p.unlink()
            target.rmdir()
    assert harmless < 30


def test_damage_in_headers_of_a_plain_archive(place: Callable[[bytes], Path]) -> None:
    """Only what it says it raises, whatever a header holds (sizes, times and modes of any kind)."""
    content = good_bytes("w")
    rng = random.Random(2)
    for _ in range(150):
        header = bytearray(content[512:1024])
        for _ in range(rng.randrange(1, 4)):
            header[rng.randrange(100, 500)] = rng.choice(b"\0 017\x80\xff9Lgx")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path = place(content[:512] + bytes(header) + content[1024:])
        target = path.parent / "out" / "raw"
        try:
            unpack_archive(path, target, **LIMITS)
        except ArchiveError:
            assert list(target.parent.iterdir()) == []
        else:
            target.rename(path.parent / f"done{rng.random()}")


# ------------------------------------------------------------------------------------------------ digest


def test_digest_is_over_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"1")
    (tmp_path / "b" / "c.txt").write_bytes(b"2")
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("a.txt", b"1"), ("b/c.txt", b"2"))
    )
    found = digest(tmp_path, ["b/c.txt", "a.txt"])
    assert found == digest(tmp_path, iter(["a.txt", "b/c.txt"])) == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "a.txt").write_bytes(b"3")
    assert digest(tmp_path, ["a.txt", "b/c.txt"]) != found
    assert digest(tmp_path, ["a.txt"]) != digest(tmp_path, ["a.txt", "b/c.txt"])
    with pytest.raises(ArchiveError, match=r"gone\.txt: cannot read"):
        digest(tmp_path, ["gone.txt"])


def make_zip(path: Path, members: dict[str, bytes], mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def test_unpack_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"c/": b"", "c/a.txt": b"1", "c/d/b.txt": b"2"})
    unpack_archive(path, tmp_path / "out", max_bytes=2, max_members=3)
    assert (tmp_path / "out" / "c" / "a.txt").read_bytes() == b"1"
    assert (tmp_path / "out" / "c" / "d" / "b.txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("members", "mode", "match"),
    [
        ({"../a": b"1"}, 0o644, "outside the target"),
        ({"/a": b"1"}, 0o644, "outside the target"),
        ({"a": b"1", "A": b"2"}, 0o644, "there twice"),
        ({"a": b"/etc/passwd"}, 0o120777, "a link or a device"),
        ({"a": bytes(1 << 20)}, 0o644, "unpacks to more than 1000 bytes"),
        ({str(i): b"" for i in range(11)}, 0o644, "more than 10 members"),
    ],
)
def test_a_zip_that_is_not_safe(tmp_path: Path, members: dict[str, bytes], mode: int, match: str) -> None:
    path = make_zip(tmp_path / "a.zip", members, mode)
    with pytest.raises(ArchiveError, match=match):
        unpack_archive(path, tmp_path / "out", max_bytes=1000, max_members=10)
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a": bytes(100_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match="cannot unpack"):
        unpack_archive(path, tmp_path / "out", max_bytes=1000, max_members=10)
    assert list(tmp_path.iterdir()) == [path]


def test_unpack_into_joins_what_is_there(tmp_path: Path) -> None:
    one = make_zip(tmp_path / "1.zip", {"c/a/1": b"1", "c/readme": b"old"})
    two = make_zip(tmp_path / "2.zip", {"c/b/2": b"2", "c/readme": b"new"})
    for path in (one, two, one, two):
        unpack_into(path, tmp_path / "out", max_bytes=100, max_members=10)
    found = {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert found == {"c/a/1": b"1", "c/b/2": b"2", "c/readme": b"new"}
    with pytest.raises(ArchiveError, match=r"3\.zip: cannot unpack"):
        unpack_into(tmp_path / "3.zip", tmp_path / "out", max_bytes=100, max_members=10)
    assert {p.name for p in tmp_path.iterdir()} == {"1.zip", "2.zip", "out"}


# ------------------------------------------------------------------------------------------------ downloads

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path == "/garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        elif self.path == "/hang-up":
            pass
        elif self.path in ("/redirect", "/loop", "/to-file"):
            self.send_response(302)
            to = {"/redirect": "/good", "/loop": "/loop", "/to-file": "file:///etc/passwd"}[self.path]
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/part-only":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        elif self.path == "/chunked-cut":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"fff\r\n" + CONTENT[:100])
        elif self.path in ("/to-ftp", "/endless-redirect"):
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/a" if self.path == "/to-ftp" else "/good")
            self.end_headers()
            while self.path == "/endless-redirect":
                self.wfile.write(bytes(1 << 16))
        elif self.path in ("/drip", "/drip-header"):
            self.send_response(200)
            if self.path == "/drip":
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.02)
        elif self.path.startswith("/versioned"):
            self.versioned()
        elif self.path in ("/good", "/cut", "/no-length", "/wrong-length"):
            self.send_response(200)
            length = {"/wrong-length": "many", "/no-length": None}.get(self.path, str(len(CONTENT)))
            if length:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(CONTENT[:1000] if self.path == "/cut" else CONTENT)
        else:
            self.send_error(404)

    def versioned(self) -> None:
        """A file with an ETag, of which each answer gives at most 200,000 bytes before the line is cut."""
        server: Any = self.server
        etag = f'"{server.version}"'
        ranged = self.headers["Range"] if self.headers["If-Range"] == etag else None
        start = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        server.starts.append(start)
        if ranged and start == len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        odd = server.odd
        if odd and self.headers["Range"]:
            self.send_response(206)
            at = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            for name, value in odd(at).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"z" * (len(CONTENT) - at))
            return
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(CONTENT[start:][: server.cut])

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    running: Any

    def handle_error(self, *_: object) -> None:
        """Clients hang up on an answer that is too long."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as server:
        Server.running = server
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def versioned(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server, whose ``/versioned`` has version 1 and is cut after 200,000 bytes."""
    server = Server.running
    server.version, server.cut, server.starts, server.odd = 1, 200_000, [], None
    return server


def test_a_download_that_is_cut_goes_on(address: str, versioned: Any, tmp_path: Path) -> None:
    target = tmp_path / "a.tar.gz"
    assert fetch(f"{address}/versioned", target, max_bytes=1 << 20, sha256=SHA256) == target
    assert target.read_bytes() == CONTENT
    assert versioned.starts == [0, 200_000, 400_000]
    assert list(tmp_path.iterdir()) == [target]
    assert fetch(f"{address}/versioned", target, max_bytes=1 << 20, sha256=SHA256) == target
    assert len(versioned.starts) == 3  # what is there and right is not fetched again


@pytest.mark.parametrize("changed", [False, True])
def test_the_next_call_goes_on_if_the_file_is_the_same(
    address: str, versioned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    target = tmp_path / "a.tar.gz"
    with monkeypatch.context() as context:
        context.setattr("asr.corpora.download.ATTEMPTS", 1)
        with pytest.raises(ArchiveError, match="stopped at 200000 bytes"):
            fetch(f"{address}/versioned", target, max_bytes=1 << 20)
    assert not target.exists()
    versioned.cut = len(CONTENT)
    if changed:
        versioned.version = 2
    fetch(f"{address}/versioned", target, max_bytes=1 << 20, sha256=SHA256)
    assert versioned.starts == [0, 0 if changed else 200_000]
    assert list(tmp_path.iterdir()) == [target]


def test_a_part_that_is_complete_is_taken(address: str, versioned: Any, tmp_path: Path) -> None:
    """Killed between the last byte and the new name."""
    (tmp_path / "a.part").write_bytes(CONTENT)
    (tmp_path / "a.part.version").write_text('"1"')
    fetch(f"{address}/versioned", tmp_path / "a", max_bytes=1 << 20, sha256=SHA256)
    assert versioned.starts == [len(CONTENT)]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_part_that_is_wrong_is_not_gone_on_with(address: str, versioned: Any, tmp_path: Path) -> None:
    versioned.cut = len(CONTENT)
    (tmp_path / "a.part").write_bytes(b"other bytes")
    (tmp_path / "a.part.version").write_text('"1"')
    with pytest.raises(ArchiveError, match="SHA-256"):
        fetch(f"{address}/versioned", tmp_path / "a", max_bytes=1 << 20, sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("etag", "range"),
    [
        ('"2"', "bytes {at}-{last}/{all}"),
        ('"1"', "bytes 0-{last}/{all}"),
        ('"1"', "bytes {at}-{last}/{at}"),
        ('"1"', "bytes {at}-{at}/{all}"),
        ('"1"', "bytes {last}-{at}/{all}"),
        ('"1"', "{at}-{last}"),
    ],
)
def test_a_part_of_another_file_or_place_is_not_appended(
    address: str, versioned: Any, tmp_path: Path, etag: str, range: str
) -> None:
    """The server answers with status 206, but not with what was asked for: the whole file is asked for instead."""
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    (tmp_path / "a.part.version").write_text('"1"')
    versioned.cut = len(CONTENT)
    versioned.odd = lambda at: {
        "ETag": etag,
        "Content-Range": range.format(at=at, last=len(CONTENT) - 1, all=len(CONTENT)),
        "Content-Length": str(len(CONTENT) - at),
    }
    fetch(f"{address}/versioned", tmp_path / "a", max_bytes=1 << 20)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_good_part_outlives_a_server_that_answers_in_parts_only(address: str, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    (tmp_path / "a.part.version").write_text('"1"')
    with pytest.raises(ArchiveError, match=r"expected the whole file \(status 200\), got status 206"):
        fetch(f"{address}/part-only", tmp_path / "a", max_bytes=1 << 20)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:1000]


def test_a_server_that_drips_is_given_up(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.corpora.download.TIMEOUT_S", 1.5)
    monkeypatch.setattr("asr.corpora.download.ATTEMPTS", 2)
    with pytest.raises(ArchiveError, match="the download stopped at"):
        fetch(f"{address}/drip", tmp_path / "a", max_bytes=1 << 20)


def test_an_answer_that_drips_is_given_up(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.corpora.download.ANSWER_S", 0.3)
    with pytest.raises(ArchiveError, match=r"no answer within 0\.3 s"):
        fetch(f"{address}/drip-header", tmp_path / "a", max_bytes=1 << 20)


@pytest.mark.parametrize("answer_s", [0.3, 0.0], ids=["within it", "before it begins"])
def test_a_handshake_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer_s: float) -> None:
    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for byte in b"\x16\x03\x03\x40\x00" + bytes(300):
                self.request.sendall(bytes([byte]))
                time.sleep(0.02)

    monkeypatch.setattr("asr.corpora.download.ANSWER_S", answer_s)
    with Server(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with pytest.raises(ArchiveError, match=f"no answer within {answer_s} s"):
            fetch(f"https://127.0.0.1:{server.server_port}/a", tmp_path / "a", max_bytes=1 << 20)
        server.shutdown()


def test_what_a_redirect_says_is_not_read(address: str, tmp_path: Path) -> None:
    assert fetch(f"{address}/endless-redirect", tmp_path / "a", max_bytes=1 << 20).read_bytes() == CONTENT


def test_redirects_stay_on_the_web(address: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"redirects to ftp://127\.0\.0\.1/a, expected http or https"):
        fetch(f"{address}/to-ftp", tmp_path / "a", max_bytes=1 << 20)
    request, answer = urllib.request.Request("https://a.example/b"), io.BytesIO()
    with pytest.raises(ArchiveError, match=r"redirects to http://a\.example/c, expected https"):
        download._Redirects().redirect_request(request, answer, 302, "", {}, "http://a.example/c")


def test_only_addresses_of_the_web_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("secret")
    with pytest.raises(ArchiveError, match="expected an address that begins with http"):
        fetch(f"file://{tmp_path}/b", tmp_path / "a", max_bytes=1 << 20)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("page", ["good", "redirect", "no-length"])
@pytest.mark.parametrize("sha256", [SHA256, None])
def test_fetch(address: str, tmp_path: Path, page: str, sha256: str | None) -> None:
    target = tmp_path / "new" / "a.tar.gz"
    assert fetch(f"{address}/{page}", target, max_bytes=len(CONTENT), sha256=sha256) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("page", "options", "match"),
    [
        ("good", {"sha256": "0" * 64}, f"expected SHA-256 0000.*, got {SHA256}"),
        ("good", {"max_bytes": len(CONTENT) - 1}, f"expected at most {len(CONTENT) - 1} bytes, got {len(CONTENT)}"),
        ("no-length", {"max_bytes": len(CONTENT) - 1}, f"expected at most {len(CONTENT) - 1} bytes, got"),
        ("cut", {}, "stopped at 1000 bytes"),
        ("chunked-cut", {}, "the download stopped"),
        ("missing", {}, "cannot download: .*404.*--source"),
        ("garbage", {}, "cannot download"),
        ("hang-up", {}, "cannot download"),
        ("loop", {}, "cannot download"),
        ("to-file", {}, "cannot download"),
        ("wrong-length", {}, "cannot download"),
    ],
)
def test_fetch_refuses(address: str, tmp_path: Path, page: str, options: dict[str, object], match: str) -> None:
    target = tmp_path / "a.tar.gz"
    for old in (None, b"an older download"):
        if old:
            target.write_bytes(old)
        with pytest.raises(ArchiveError, match=match) as error:
            fetch(f"{address}/{page}", target, **{"max_bytes": 1 << 20, **options})  # type: ignore[arg-type]
        assert f"{address}/{page}" in str(error.value)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"a.tar.gz": old} if old else {})


def test_fetch_from_nowhere(tmp_path: Path) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        port = server.server_address[1]
    for url in (f"http://127.0.0.1:{port}/a", "http://", "http://127.0.0.1:x/"):
        with pytest.raises(ArchiveError, match="cannot download"):
            fetch(url, tmp_path / "a", max_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_fetch_to_nowhere(address: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="file/a: cannot write"):
        fetch(f"{address}/good", tmp_path / "file" / "a", max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("source", "yes"),
    [("http://a/b", True), ("https://a/b", True), ("ftp://a/b", True), ("http", False), ("/a/http://b", False)],
)
def test_is_url(source: str, yes: bool) -> None:
    assert is_url(source) is yes
