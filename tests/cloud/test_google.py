"""Objects of Google Cloud Storage through gcsfs, from a server that speaks its JSON API."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import pytest
from archives import make_archive
from google_server import Bucket, serving_google

from asr.audio.archive_index import read_index
from asr.audio.archive_members import open_member
from asr.cloud import filesystems
from asr.cloud.inputs import (
    input_exists,
    input_version,
    is_folder,
    list_inputs,
    open_input,
    read_whole,
    remove_object,
    write_whole,
)
from asr.cloud.range_reader import BLOCK_BYTES, FIRST_BYTES
from asr.errors import CloudError
from asr.recognize.result_parts import Parts, read_results

pytest.importorskip("gcsfs", reason="gcsfs is not installed")
LARGE = np.random.default_rng(0).bytes(FIRST_BYTES + 2 * BLOCK_BYTES + 12_345)


@pytest.fixture
def bucket(monkeypatch):
    with serving_google(Bucket()) as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.url)
        filesystems.forget_connections()
        yield found
    filesystems.forget_connections()


@pytest.fixture
def no_waits(monkeypatch):
    """gcsfs's own retries wait a second and more."""
    import gcsfs.retry

    async def at_once(_):
        return None

    monkeypatch.setattr(gcsfs.retry.asyncio, "sleep", at_once)


def test_an_object_is_read_whole_and_in_parts(bucket):
    bucket.put("set/large.bin", LARGE)
    bucket.put("set/empty", b"")
    assert read_whole("gs://speech/set/large.bin") == LARGE
    assert read_whole("gs://speech/set/empty") == b""
    with open_input("gs://speech/set/large.bin") as file:
        for start, count in ((0, 10), (len(LARGE) - 7, 100), (FIRST_BYTES - 3, 6), (5, 2 * BLOCK_BYTES)):
            file.seek(start)
            assert file.read(count) == LARGE[start : start + count]


def test_what_is_written_is_read_again_and_removed(bucket):
    for data in (b"one", LARGE):
        write_whole("gs://speech/a b/ü.bin", data)
        assert read_whole("gs://speech/a b/ü.bin") == data
    assert input_exists("gs://speech/a b/ü.bin")
    remove_object("gs://speech/a b/ü.bin")
    remove_object("gs://speech/a b/ü.bin")
    assert not input_exists("gs://speech/a b/ü.bin")


def test_a_folder_is_listed_in_depth_over_several_pages(bucket):
    bucket.page = 3
    names = [f"set/{number}.wav" for number in range(10)] + ["set/deep/er/b c.wav"]
    for name in [*names, "set/.hidden", "other/c.wav"]:
        bucket.put(name, b"12")
    found = sorted(file.path for file in list_inputs("gs://speech/set/"))
    assert found == sorted(name.removeprefix("set/") for name in names)
    assert is_folder("gs://speech/set")
    assert not is_folder("gs://speech/set/1.wav")


def test_an_object_that_changes_under_its_reader_is_named_and_not_mixed(bucket):
    bucket.put("large.bin", LARGE)
    with open_input("gs://speech/large.bin") as file:
        assert file.read(10) == LARGE[:10]
        bucket.put("large.bin", LARGE[::-1])
        file.seek(-10, io.SEEK_END)
        with pytest.raises(CloudError, match=r"gs://speech/large\.bin: the object changed while it was read"):
            file.read(10)


def test_a_version_is_the_generation(bucket):
    bucket.put("a", b"12")
    first = input_version("gs://speech/a")
    bucket.put("a", b"12")
    assert input_version("gs://speech/a") != first


def test_a_missing_object_is_named(bucket):
    with pytest.raises(CloudError, match=r"^gs://speech/none\.wav: no such object$"):
        open_input("gs://speech/none.wav")


def test_a_bucket_that_lists_and_does_not_read_is_refused(bucket):
    bucket.put("a.wav", b"1")
    bucket.fault = lambda method, name: 403 if name else 0
    (found,) = list_inputs("gs://speech/")
    with pytest.raises(CloudError, match=r"gs://speech/a\.wav: access denied.*GOOGLE_APPLICATION_CREDENTIALS"):
        read_whole(found.url)


def test_a_service_that_is_down_is_named_without_messages_of_the_library(bucket, no_waits, caplog):
    bucket.fault = lambda method, name: 503
    with pytest.raises(CloudError, match=r"^gs://speech/a\.wav: cannot be read: .*\(2 tries\)$"):
        read_whole("gs://speech/a.wav")
    assert not [record for record in caplog.records if record.name.startswith("gcsfs")]


def test_errors_that_pass_lose_nothing(bucket, no_waits):
    rng, failed = random.Random(0), Counter()

    def fault(method, name):
        if rng.random() >= 0.2 or failed[method, name] == 3:  # never four times in a row
            failed[method, name] = 0
            return 0
        failed[method, name] += 1
        return rng.choice((500, 503, 429))

    bucket.fault = fault
    files = {f"set/{number}.bin": LARGE[number : number + 20_000] for number in range(50)}
    for name, data in files.items():
        write_whole(f"gs://speech/{name}", data)
    assert {f"set/{file.path}": read_whole(file.url) for file in list_inputs("gs://speech/set/")} == files


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_are_read_by_their_members(kind, bucket):
    files = {f"{number}.bin": LARGE[number : number + 5000] for number in range(10)}
    bucket.put(f"x.{kind}", make_archive(kind, files))
    index = read_index(f"gs://speech/x.{kind}")
    for name, data in files.items():
        with open_member(index.path(name)) as file:
            assert file.read() == data


def test_results_are_written_there_in_parts(bucket):
    with Parts("gs://speech/out", {"models": ["m"]}, part_recordings=2) as parts:
        for number in range(5):
            parts.add(str(number), f'{{"id": "{number}"}}\n'.encode())
    assert sorted(result["id"] for result in read_results("gs://speech/out")) == list("01234")
    with Parts("gs://speech/out", {"models": ["m"]}, resume=True) as parts:
        assert parts.done == set("01234")
