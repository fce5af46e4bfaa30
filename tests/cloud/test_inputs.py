"""Objects opened, listed and written: on S3 (moto), on a web server, in fsspec's memory."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading

import numpy as np
import pytest
from cloud_services import s3_environment
from object_server import Objects, random_errors, serving

from asr.cloud import filesystems, range_reader, remote_objects
from asr.cloud.filesystems import locate
from asr.cloud.inputs import input_exists, input_version, is_folder, list_inputs, open_input, read_whole, write_whole
from asr.cloud.range_reader import BLOCK_BYTES, FIRST_BYTES
from asr.errors import CloudError

LARGE = np.random.default_rng(0).bytes(FIRST_BYTES + 3 * BLOCK_BYTES + 12_345)


@pytest.fixture(params=["s3", "memory", "http"])
def place(request, bucket, web):
    """``place(path, data)`` puts an object there and gives its URL; ``place.root`` is the folder's URL."""
    root = {"s3": f"{bucket}/{os.urandom(4).hex()}", "memory": f"memory://{os.urandom(4).hex()}", "http": web.url}

    def put(path, data):
        if request.param == "http":
            web.files[path] = data
        else:
            write_whole(f"{put.root}/{path}", data)
        return f"{put.root}/{path}"

    put.root = root[request.param]
    return put


def test_an_object_is_read_whole_and_in_parts(place):
    url = place("set/large.bin", LARGE)
    assert read_whole(url) == LARGE
    with open_input(url) as file:
        assert (file.size, file.name, file.seekable()) == (len(LARGE), url, True)
        for start, count in ((0, 10), (len(LARGE) - 7, 100), (FIRST_BYTES - 3, 6), (5, 3 * BLOCK_BYTES)):
            file.seek(start)
            assert file.read(count) == LARGE[start : start + count]
        assert file.seek(0, io.SEEK_END) == len(LARGE)
        assert file.read() == b""


def test_small_and_empty_objects_are_read(place):
    assert read_whole(place("one", b"1")) == b"1"
    assert read_whole(place("empty", b"")) == b""
    with open_input(place("lines", b"a\nbc\n")) as file:
        assert list(file) == [b"a\n", b"bc\n"]


def test_tarfile_reads_an_archive_by_its_parts(place):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a", "b"):
            member = tarfile.TarInfo(name)
            member.size = len(LARGE)
            tar.addfile(member, io.BytesIO(LARGE))
    with open_input(place("x.tar", buffer.getvalue())) as file, tarfile.open(fileobj=file) as tar:
        assert tar.extractfile("b").read() == LARGE


def test_a_folder_is_listed_in_depth_without_hidden_files(place):
    for path in ("set/a.wav", "set/deep/er/b c.wav", "set/.hidden", "set/.git/x.wav", "other/c.wav"):
        place(path, b"12")
    found = sorted(list_inputs(f"{place.root}/set/"), key=lambda file: file.path)
    assert [file.path for file in found] == ["a.wav", "deep/er/b c.wav"]
    assert all(file.size in (2, None) for file in found)
    assert [read_whole(file.url) for file in found] == [b"12", b"12"]


def test_folders_and_objects_are_told_apart(place):
    url = place("set/a.wav", b"12")
    assert is_folder(f"{place.root}/set/")
    assert not is_folder(url)
    assert input_exists(url)
    assert not input_exists(f"{place.root}/set/none.wav")
    if not url.startswith("http"):  # a web server does not say what is a folder
        assert is_folder(f"{place.root}/set")
        assert not is_folder(f"{place.root}/none")


def test_a_missing_object_is_named(place):
    with pytest.raises(CloudError, match=f"^{place.root}/none.wav: no such object$"):
        open_input(f"{place.root}/none.wav")


def test_an_object_that_changes_under_its_reader_is_named_and_not_mixed(place):
    url = place("large.bin", LARGE)
    with open_input(url) as file:
        assert file.read(10) == LARGE[:10]
        place("large.bin", LARGE[::-1])
        file.seek(len(LARGE) - 10)
        with pytest.raises(CloudError, match=r"large\.bin: the object changed while it was read"):
            file.read(10)


def test_an_object_that_is_cut_off_under_its_reader_is_named(place):
    url = place("large.bin", LARGE)
    with open_input(url) as file:
        place("large.bin", LARGE[:1000])
        file.seek(len(LARGE) - 10)
        with pytest.raises(CloudError, match="the object changed while it was read"):
            file.read(10)


def test_versions_differ_exactly_when_the_content_does(place):
    url = place("a", b"12")
    first = input_version(url)
    assert first == input_version(url)
    assert first.size == 2
    assert place("a", b"34")
    assert input_version(url) != first


def test_more_bytes_than_allowed_are_refused(place):
    with pytest.raises(CloudError, match="expected at most 10 bytes, got 11"):
        read_whole(place("a", b"x" * 11), most=10)


# The web


def test_a_short_object_takes_one_request(web):
    web.files["a.wav"] = b"12"
    assert read_whole(f"{web.url}/a.wav") == b"12"
    assert len(web.requests) == 1


def test_blocks_are_requested_ahead_and_together(web):
    web.files["large"] = LARGE
    waiting, together = threading.Semaphore(0), []
    barrier = threading.Barrier(3, timeout=300)

    def fault(request):
        if int(request.span.removeprefix("bytes=").partition("-")[0] or 0) > FIRST_BYTES:
            barrier.wait()  # passes only when three requests are under way
            together.append(request.span)
        waiting.release()
        return 0

    web.files["large"] = LARGE[: FIRST_BYTES + 4 * BLOCK_BYTES] + b"x" * (4 * BLOCK_BYTES)
    web.files["large"] = web.files["large"][: FIRST_BYTES + 4 * BLOCK_BYTES]
    web.fault = fault
    with open_input(f"{web.url}/large") as file:
        assert len(file.read()) == len(web.files["large"])
    assert len(together) == 3


def test_errors_and_cut_connections_lose_nothing(web):
    web.files = {f"{number}.bin": LARGE[number : number + 50_000] for number in range(200)} | {"large": LARGE}
    web.fault = random_errors(0.2)
    for name, data in web.files.items():
        assert read_whole(f"{web.url}/{name}") == data
    assert len(web.requests) > 230


def test_a_request_that_is_refused_is_not_repeated(web):
    web.files["a"] = b"12"
    for status in (403, 404):
        web.requests.clear()
        web.fault = lambda request, status=status: status
        with pytest.raises(CloudError):
            read_whole(f"{web.url}/a")
        assert len(web.requests) == 1


def test_a_server_without_ranges_gives_the_whole_at_once(web):
    web.ranges = False
    web.files["large"] = LARGE
    assert read_whole(f"{web.url}/large") == LARGE


def test_a_server_without_ranges_sends_an_object_once_and_is_asked_for_its_version_alone(web):
    web.ranges = False
    web.files["large"] = LARGE
    assert input_version(f"{web.url}/large").size == len(LARGE)
    with open_input(f"{web.url}/large") as file:
        file.read()
        file.seek(0)
        assert file.read(9) == LARGE[:9]
    assert web.count("large") == 2


def test_more_than_fits_into_memory_from_a_server_without_ranges_is_refused(web, monkeypatch):
    monkeypatch.setattr(remote_objects, "LARGEST_WHOLE", len(LARGE) - 1)
    web.ranges = False
    web.files["large"] = LARGE
    with pytest.raises(CloudError, match=r"/large: expected a server that sends parts .* download it"):
        open_input(f"{web.url}/large")
    assert web.count("large") == 1


def test_a_server_without_tags_is_checked_by_size(web):
    web.tags = False
    web.files["large"] = LARGE
    assert read_whole(f"{web.url}/large") == LARGE
    with open_input(f"{web.url}/large") as file:
        web.files["large"] = LARGE[:-1]
        file.seek(-10, io.SEEK_END)
        with pytest.raises(CloudError, match="changed while it was read"):
            file.read()


def test_password_of_the_url_is_sent_and_not_shown(web):
    web.user, web.files["a"] = "alice:geheim", b"12"
    url = web.url.replace("://", "://alice:geheim@")
    with open_input(f"{url}/a") as file:
        assert file.read() == b"12"
        assert file.name == f"{web.url}/a"
    with pytest.raises(CloudError, match=r"access denied.*netrc") as caught:
        open_input(f"{url.replace('geheim', 'falsch')}/a")
    assert "falsch" not in str(caught.value)


def test_password_of_netrc_is_sent(web, tmp_path, monkeypatch):
    web.user, web.files["a"] = "alice:geheim", b"12"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login alice password geheim\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    filesystems.forget_connections()
    assert read_whole(f"{web.url}/a") == b"12"


def test_a_server_that_is_not_there_is_named(web):
    with pytest.raises(CloudError, match=r"http://127.0.0.1:1/a: cannot be read: .*\(6 tries\)"):
        open_input("http://127.0.0.1:1/a")


def test_nothing_is_written_to_a_web_server(web):
    with pytest.raises(CloudError, match="web servers take no files"):
        write_whole(f"{web.url}/a", b"1")


# S3


def test_a_long_listing_goes_on_after_errors_page_by_page():
    objects = Objects({f"bucket/set/{number:04}.wav": b"" for number in range(500)}, random_errors(0.2), page=10)
    with serving(objects), s3_environment(objects.url):
        assert sum(1 for _ in list_inputs("s3://bucket/set")) == 500
    assert len(objects.requests) < 120  # 50 pages, and those that failed again


def test_a_bucket_that_lists_and_does_not_read_is_refused_for_each_object(bucket):
    objects = Objects({"bucket/a.wav": b"1"}, lambda request: 403 if request.path.endswith(".wav") else 0)
    with serving(objects), s3_environment(objects.url):
        (found,) = list_inputs("s3://bucket")
        with pytest.raises(CloudError, match=r"s3://bucket/a\.wav: access denied"):
            read_whole(found.url)
        assert objects.count("bucket/a.wav") == 1


def test_without_credentials_the_message_says_what_to_set(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    filesystems.forget_connections()
    with pytest.raises(CloudError, match=r"s3://bucket/a: no credentials found .*set AWS_ACCESS_KEY_ID and"):
        open_input("s3://bucket/a")
    filesystems.forget_connections()


def test_wrong_keys_are_refused_without_showing_them(monkeypatch):
    objects = Objects({}, lambda request: 403)
    with serving(objects), s3_environment(objects.url):
        with pytest.raises(CloudError, match="access denied") as caught:
            open_input("s3://bucket/a")
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


# Schemes


def test_an_unknown_scheme_is_named_with_those_that_there_are():
    with pytest.raises(CloudError, match=r"ftp://h/a: expected one of s3://, gs://.*, got ftp://; copy the files"):
        open_input("ftp://me:geheim@h/a")


@pytest.mark.parametrize("url", ["s3://", "s3:///a.wav", "gs:///a.wav"])
def test_a_url_without_a_bucket_is_refused_before_any_request(url):
    with pytest.raises(CloudError, match=r"expected the name of a bucket, as in (s3|gs)://bucket/a\.wav"):
        open_input(url)


def test_a_bucket_that_is_not_there_is_named_for_reading_listing_and_writing(bucket):
    for ask in (open_input, lambda url: list(list_inputs(url)), lambda url: write_whole(url, b"1")):
        with pytest.raises(CloudError, match=r"^s3://elsewhere/a: no such bucket"):
            ask("s3://elsewhere/a")


def test_a_pattern_at_a_url_is_not_expanded_and_the_message_says_so(bucket):
    with pytest.raises(CloudError, match=r"a\*\.wav: no such object; patterns are not expanded at URLs"):
        open_input(f"{bucket}/a*.wav")


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/a", "s3fs"), ("gs://b/a", "gcsfs"), ("https://h/a", "aiohttp"),
                         ("sftp://h/a", "paramiko"), ("memory://a", "fsspec")],
)  # fmt: skip
def test_a_scheme_that_is_not_installed_names_the_extra(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CloudError, match=rf"needs the package {package} .*pip install 'recurrent-asr\[cloud\]'"):
        locate(url)


def test_reading_ahead_does_not_keep_a_process_from_ending():
    pool = range_reader.DaemonPool(2)
    future = pool.submit(lambda: threading.current_thread().daemon)
    assert future.result(60)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(60)
