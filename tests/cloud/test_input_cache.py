"""Copies of objects on the local disk: when they are used, which go, what several processes see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from object_server import Objects, random_errors, serving

from asr.cloud.input_cache import cache_limit, input_folder, open_cached
from asr.cloud.inputs import write_whole
from asr.errors import CloudError, ConfigError

MEGABYTE = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of 10 MB."""
    monkeypatch.setenv("ASR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ASR_CACHE_GB", "0.01")
    return tmp_path / "cache"


def read(url):
    with open_cached(url) as file:
        assert file.name == url
        return file.read()


def kept(cache):
    """Bytes of the copies."""
    return sum(path.stat().st_size for path in cache.glob("*/*"))


def full_reads(web, path):
    """Requests for more than the first byte."""
    return sum(request.path == path and request.span != "bytes=0-0" for request in web.requests)


def test_an_object_is_fetched_once(web, cache):
    web.files["a.wav"] = MEGABYTE
    for _ in range(3):
        assert read(f"{web.url}/a.wav") == MEGABYTE
    assert full_reads(web, "a.wav") == 1
    assert kept(cache) == len(MEGABYTE)


def test_a_changed_object_is_not_read_from_the_old_copy(web):
    for content in (b"one", b"two", MEGABYTE, b"one"):
        web.files["a.wav"] = content
        assert read(f"{web.url}/a.wav") == content


def test_a_changed_object_of_s3_and_memory_is_not_read_from_the_old_copy(bucket):
    for url in (f"{bucket}/changed", "memory://cached/changed"):
        for content in (b"one", b"two"):
            write_whole(url, content)
            assert read(url) == content


def test_a_copy_is_found_again_under_another_signature(web):
    web.files["a.wav"] = b"12"
    for signature in ("abc", "def"):
        with open_cached(f"{web.url}/a.wav?X-Amz-Signature={signature}") as file:
            assert file.read() == b"12"
    assert full_reads(web, "a.wav") == 1


def test_two_objects_that_differ_in_their_query_are_two(web):
    web.files["get"] = b"12"
    for number in ("0123456789abcdef0123456789abcde1", "0123456789abcdef0123456789abcde2"):
        with open_cached(f"{web.url}/get?id={number}") as file:
            assert file.read() == b"12"
    assert full_reads(web, "get") == 2


def test_the_least_recently_used_copies_go(web, cache):
    for number in range(9):
        web.files[f"{number}"] = MEGABYTE[number:] + MEGABYTE[:number]
        read(f"{web.url}/{number}")
        for path in cache.glob("*/*"):  # times of files may be coarse
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    read(f"{web.url}/0")  # used again
    web.files["large"] = MEGABYTE * 3
    read(f"{web.url}/large")
    assert kept(cache) <= 10_000_000
    web.requests.clear()
    for name in ("0", "8", "large"):
        read(f"{web.url}/{name}")
    assert [full_reads(web, name) for name in ("0", "8", "large")] == [0, 0, 0]
    read(f"{web.url}/1")
    assert full_reads(web, "1") == 1


def test_the_limit_holds_for_any_number_of_objects(web, cache):
    for number in range(40):
        web.files[f"{number}"] = MEGABYTE[number:]
        read(f"{web.url}/{number}")
        assert kept(cache) <= 10_000_000


def test_an_object_larger_than_the_cache_is_read_without_a_copy(web, cache):
    web.files["large"] = MEGABYTE * 11
    assert read(f"{web.url}/large") == MEGABYTE * 11
    assert not cache.exists() or kept(cache) == 0


def test_an_object_without_a_version_is_read_without_a_copy(web, cache):
    web.tags, web.files["a"] = False, b"12"
    assert read(f"{web.url}/a") == b"12"
    assert not cache.exists()


def test_a_copy_that_was_cut_off_is_fetched_again(web, cache):
    web.files["a"] = MEGABYTE
    read(f"{web.url}/a")
    (copy,) = cache.glob("*/*")
    copy.write_bytes(b"half")
    assert read(f"{web.url}/a") == MEGABYTE
    assert full_reads(web, "a") == 2


def test_an_open_copy_outlives_its_removal(web, cache):
    web.files["a"] = MEGABYTE
    read(f"{web.url}/a")
    with open_cached(f"{web.url}/a") as file:
        (copy,) = cache.glob("*/*")
        copy.unlink()
        assert file.read() == MEGABYTE


def test_a_failed_fetch_leaves_no_copy(web, cache):
    web.files["a"] = MEGABYTE * 3
    web.fault = lambda request: 0 if request.span == "bytes=0-0" else 403
    with pytest.raises(CloudError, match="access denied"):
        read(f"{web.url}/a")
    web.fault = lambda request: 0
    assert read(f"{web.url}/a") == MEGABYTE * 3


def test_errors_on_the_way_do_not_damage_copies(web):
    web.fault = random_errors(0.2)
    web.files = {f"{number}": MEGABYTE[number:] for number in range(8)}
    for _ in range(2):
        for name, content in web.files.items():
            assert read(f"{web.url}/{name}") == content


def test_a_folder_that_takes_no_files_is_named_and_reading_goes_on(web, cache, capfd):
    cache.write_text("no folder")
    web.files["a"] = b"12"
    assert read(f"{web.url}/a") == b"12"
    assert read(f"{web.url}/a") == b"12"
    assert capfd.readouterr().err.count("cannot keep objects there") == 1


def test_threads_fetch_an_object_once(web):
    web.files["a"], web.latency_s = MEGABYTE, 0.02
    results = []
    threads = [threading.Thread(target=lambda: results.append(read(f"{web.url}/a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [MEGABYTE] * 8
    assert full_reads(web, "a") == 1


PROGRAM = """
import hashlib, sys
from asr.cloud.input_cache import open_cached
for number in range(30):
    with open_cached(f"{sys.argv[1]}/{number}") as file:
        print(hashlib.md5(file.read()).hexdigest())
"""


def test_processes_share_the_cache_and_its_limit(web, cache):
    import hashlib

    web.files = {f"{number}": MEGABYTE[number:] for number in range(30)}
    command = [sys.executable, "-c", PROGRAM, web.url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    largest = 0
    while any(process.poll() is None for process in processes):
        largest = max(largest, kept_now(cache))
        time.sleep(0.01)
    expected = [hashlib.md5(web.files[f"{number}"]).hexdigest() for number in range(30)]
    assert [process.communicate()[0].split() for process in processes] == [expected] * 3
    assert kept(cache) > 0
    assert max(largest, kept(cache)) <= 10_000_000


def kept_now(cache):
    """As ``kept``, while files come; none goes before this has looked at all."""
    total = 0
    if not (cache / "bytes").exists():
        return total
    with open(cache / "bytes", "a") as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        for path in list(cache.glob("*/*")):
            with contextlib.suppress(FileNotFoundError):  # a part that became a copy
                total += path.stat().st_size
    return total


def test_what_other_processes_fetch_now_counts(web, cache):
    """Two are fetching 8 MB: the third object is read, and not kept."""
    begun, go_on = threading.Barrier(3), threading.Event()

    def fault(request):
        if request.path != "2" and request.span != "bytes=0-0" and not go_on.is_set():
            begun.wait(300)
            go_on.wait(300)
        return 0

    web.files = {"0": MEGABYTE * 4, "1": MEGABYTE[1:] * 4, "2": MEGABYTE * 3}
    web.fault = fault
    fetching = [threading.Thread(target=read, args=(f"{web.url}/{path}",)) for path in "01"]
    for thread in fetching:
        thread.start()
    begun.wait(300)
    assert read(f"{web.url}/2") == MEGABYTE * 3
    assert kept(cache) < len(MEGABYTE)
    go_on.set()
    for thread in fetching:
        thread.join()
    assert kept(cache) == 2 * len(MEGABYTE) * 4 - 4


def test_a_killed_fetch_is_taken_over(web, cache):
    begun, go_on = threading.Event(), threading.Event()

    def fault(request):
        if request.span.startswith("bytes=3"):
            begun.set()
            go_on.wait(300)
        return 0

    web.files = {"0": MEGABYTE * 8}
    web.fault = fault
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, web.url], stdout=subprocess.DEVNULL)
    assert begun.wait(300)
    process.kill()
    process.wait()
    go_on.set()
    assert list(cache.glob("*/*.part"))
    assert read(f"{web.url}/0") == MEGABYTE * 8
    assert not list(cache.glob("*/*.part"))


def test_a_killed_fetch_leaves_room_for_others(web, cache):
    web.files = {"1": MEGABYTE * 3}
    part = cache / "00" / "00.9000000.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"begun")
    (cache / "bytes").write_text("9000000")
    assert read(f"{web.url}/1") == MEGABYTE * 3
    assert kept(cache) == len(MEGABYTE) * 3
    assert not part.exists()


def test_copies_stay_where_other_processes_fetch_more_than_the_limit(web, cache):
    web.files = {"0": MEGABYTE, "1": MEGABYTE[1:]}
    read(f"{web.url}/0")
    part = cache / "00" / "00.20000000.part"
    part.parent.mkdir(exist_ok=True)
    (cache / "bytes").write_text("21000000")
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read(f"{web.url}/1") == MEGABYTE[1:]
    read(f"{web.url}/0")
    assert full_reads(web, "0") == 1


def test_the_limit_is_a_number_of_gigabytes(monkeypatch):
    assert cache_limit() == 10_000_000
    monkeypatch.delenv("ASR_CACHE_GB")
    assert cache_limit() == 0
    assert cache_limit(20.0) == 20_000_000_000
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("ASR_CACHE_GB", text)
        with pytest.raises(ConfigError, match="ASR_CACHE_GB: expected a number of gigabytes"):
            cache_limit()


def test_the_folder_is_below_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("ASR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert input_folder() == Path(tmp_path / "asr" / "inputs")


def test_without_a_limit_nothing_is_kept(monkeypatch, cache):
    monkeypatch.setenv("ASR_CACHE_GB", "0")
    with serving(Objects({"a": b"12"})) as web:
        assert read(f"{web.url}/a") == b"12"
        assert not cache.exists()
